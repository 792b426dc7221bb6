package usage

import (
	"bytes"
	"context"
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/bufbuild/protocompile"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
)

func full() Record {
	r := Record{Kind: KindUsage, LeaseID: "0190-lease", Seq: 7, Customer: "acme", Gateway: "gw-1", TimeMs: 1_795_000_000_123,
		Row: RowUsage, RequestID: "req-1", KeyID: "k1", Provider: "openai", API: "openai.chat", Model: "gpt-4o",
		Answered: "gpt-4o-2024-08-06", ModelBilled: "gpt-4o", Plan: "free", Rule: "customer=acme", CostCard: strings.Repeat("a", 64),
		PriceCard: strings.Repeat("b", 64), Currency: "usd", Tags: []Tag{{"team", "blue"}, {"empty", ""}}, Status: StatusOK, Stream: true,
		Estimated: true, UnknownMeter: true, Reserved: 9_000_000_000, Cost: 15_000_000, Price: 45_000_000, HTTPStatus: 200,
		LatencyMs: 1234, TTFTMs: 56, Returned: 3, Count: 4, CostSum: 5, PriceSum: 6, Source: "billing", ExternalID: "evt-9"}
	for m := range r.Meters {
		r.Meters[m] = uint64(m) + 1
	}
	return r
}

func TestRoundTrip(t *testing.T) {
	want := full()
	got, err := ParseRecord(AppendRecord(nil, &want))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v, %v\nwant %+v", got, err, want)
	}
	if id := got.EventID(); id != "0190-lease:7" {
		t.Errorf("event id %q", id)
	}
	if s := string(got.AppendTieText(nil)); s != "0190-lease:7:15000000:45000000" {
		t.Errorf("tie text %q", s)
	}
}

// TestSchema holds the hand-written codec to usage.proto: a protobuf library
// that knows nothing but the schema reads every field, and writes bytes that
// this package reads back.
func TestSchema(t *testing.T) {
	src, err := os.ReadFile("usage.proto")
	if err != nil {
		t.Fatal(err)
	}
	compiler := protocompile.Compiler{Resolver: &protocompile.SourceResolver{
		Accessor: protocompile.SourceAccessorFromMap(map[string]string{"usage.proto": string(src)})}}
	files, err := compiler.Compile(context.Background(), "usage.proto")
	if err != nil {
		t.Fatal(err)
	}
	desc := files[0].Messages().ByName("Record")
	msg := dynamicpb.NewMessage(desc)
	want := full()
	wire := AppendRecord(nil, &want)
	if err := (proto.UnmarshalOptions{DiscardUnknown: false}).Unmarshal(wire, msg); err != nil {
		t.Fatal(err)
	}
	if len(msg.GetUnknown()) > 0 {
		t.Fatalf("fields the schema lacks: %x", msg.GetUnknown())
	}
	for i := range desc.Fields().Len() {
		if f := desc.Fields().Get(i); !msg.Has(f) {
			t.Errorf("the schema's field %s is never written", f.Name())
		}
	}
	get := func(name string) protoreflect.Value { return msg.Get(desc.Fields().ByName(protoreflect.Name(name))) }
	if get("customer").String() != "acme" || get("price").Int() != 45_000_000 || get("request_id").String() != "req-1" ||
		get("cost_card").String() != want.CostCard || get("ttft_ms").Uint() != 56 || get("price_sum").Int() != 6 {
		t.Error("a field is written under another's number")
	}
	if n := files[0].Enums().ByName("Meter").Values().Len(); n != NumMeters {
		t.Errorf("the schema has %d meters, the code %d", n, NumMeters)
	}
	back, err := proto.Marshal(msg)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseRecord(back)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("after the library: %+v, %v", got, err)
	}
}

func TestMalformed(t *testing.T) {
	change := func(f func(*Record)) []byte {
		r := full()
		f(&r)
		return AppendRecord(nil, &r)
	}
	for name, b := range map[string][]byte{
		"empty":           {},
		"other version":   bytes.Replace(AppendRecord(nil, &Record{Kind: KindClose, LeaseID: "l", Customer: "c", Seq: 1}), []byte{8, 1}, []byte{8, 9}, 1),
		"no kind":         change(func(r *Record) { r.Kind = 0 }),
		"kind too large":  change(func(r *Record) { r.Kind = 6 }),
		"no lease":        change(func(r *Record) { r.LeaseID = "" }),
		"no customer":     change(func(r *Record) { r.Customer = "" }),
		"usage without":   change(func(r *Record) { r.Seq = 0 }),
		"intent with":     change(func(r *Record) { r.Kind = KindIntent }),
		"negative price":  change(func(r *Record) { r.Price = -1 }),
		"billed leakage":  change(func(r *Record) { r.Row = RowLeakage }),
		"no row":          change(func(r *Record) { r.Row = 0 }),
		"truncated":       change(func(r *Record) {})[:40],
		"unknown meter":   append(change(func(r *Record) {}), 0xd2, 1, 4, 8, 99, 16, 1),
		"not protobuf":    []byte("{\"a\":1}"),
		"seq past int64":  change(func(r *Record) { r.Seq = 1 << 63 }),
		"kind past uint8": append(change(func(r *Record) {}), 16, 0x82, 2),
	} {
		if r, err := ParseRecord(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
	if _, err := ParseRecord(append(change(func(*Record) {}), 0xf8, 0x3f, 1)); err != nil {
		t.Errorf("an unknown field must be skipped: %v", err)
	}
}

func FuzzParseRecord(f *testing.F) {
	r := full()
	f.Add(AppendRecord(nil, &r))
	f.Add([]byte{8, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRecord(b)
		if err != nil {
			return
		}
		again, err := ParseRecord(AppendRecord(nil, &r))
		if err != nil || !reflect.DeepEqual(again, r) {
			t.Fatalf("%+v became %+v, %v", r, again, err)
		}
	})
}

func BenchmarkAppendRecord(b *testing.B) {
	r, buf := full(), make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendRecord(buf[:0], &r)
	}
}

func BenchmarkParseRecord(b *testing.B) {
	r := full()
	wire := AppendRecord(nil, &r)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseRecord(wire); err != nil {
			b.Fatal(err)
		}
	}
}
