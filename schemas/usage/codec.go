package usage

import (
	"errors"
	"fmt"
	"math"

	"google.golang.org/protobuf/encoding/protowire"

	"weir/schemas/money"
)

// The field numbers of usage.proto, in whose order records are written.
const (
	fieldVersion protowire.Number = iota + 1
	fieldKind
	fieldLeaseID
	fieldSeq
	fieldCustomer
	fieldGateway
	fieldTimeMs
	fieldRow
	fieldRequestID
	fieldKeyID
	fieldProvider
	fieldAPI
	fieldModel
	fieldAnswered
	fieldModelBilled
	fieldPlan
	fieldRule
	fieldCostCard
	fieldPriceCard
	fieldCurrency
	fieldTags
	fieldStatus
	fieldStream
	fieldEstimated
	fieldUnknownMeter
	fieldMeters
	fieldReserved
	fieldCost
	fieldPrice
	fieldHTTPStatus
	fieldLatencyMs
	fieldTTFTMs
	fieldReturned
	fieldCount
	fieldCostSum
	fieldPriceSum
	fieldSource
	fieldExternalID
)

// ErrMalformed is wrapped by every failure of ParseRecord.
var ErrMalformed = errors.New("not a usage record")

// AppendRecord appends r in the wire format of usage.proto. It allocates only
// to grow b.
func AppendRecord(b []byte, r *Record) []byte {
	b = appendUint(b, fieldVersion, Version)
	b = appendUint(b, fieldKind, uint64(r.Kind))
	b = appendString(b, fieldLeaseID, r.LeaseID)
	b = appendUint(b, fieldSeq, r.Seq)
	b = appendString(b, fieldCustomer, r.Customer)
	b = appendString(b, fieldGateway, r.Gateway)
	b = appendUint(b, fieldTimeMs, uint64(r.TimeMs))
	b = appendCall(b, r)
	b = appendUint(b, fieldReturned, uint64(r.Returned))
	b = appendUint(b, fieldCount, r.Count)
	b = appendUint(b, fieldCostSum, uint64(r.CostSum))
	b = appendUint(b, fieldPriceSum, uint64(r.PriceSum))
	b = appendString(b, fieldSource, r.Source)
	return appendString(b, fieldExternalID, r.ExternalID)
}

// appendCall appends what describes one upstream call.
func appendCall(b []byte, r *Record) []byte {
	b = appendUint(b, fieldRow, uint64(r.Row))
	b = appendString(b, fieldRequestID, r.RequestID)
	b = appendString(b, fieldKeyID, r.KeyID)
	b = appendString(b, fieldProvider, r.Provider)
	b = appendString(b, fieldAPI, r.API)
	b = appendString(b, fieldModel, r.Model)
	b = appendString(b, fieldAnswered, r.Answered)
	b = appendString(b, fieldModelBilled, r.ModelBilled)
	b = appendString(b, fieldPlan, r.Plan)
	b = appendString(b, fieldRule, r.Rule)
	b = appendString(b, fieldCostCard, r.CostCard)
	b = appendString(b, fieldPriceCard, r.PriceCard)
	b = appendString(b, fieldCurrency, r.Currency)
	for _, t := range r.Tags {
		size := protowire.SizeTag(1)*2 + protowire.SizeBytes(len(t.Key)) + protowire.SizeBytes(len(t.Value))
		b = protowire.AppendTag(b, fieldTags, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(size))
		b = protowire.AppendTag(b, 1, protowire.BytesType)
		b = protowire.AppendString(b, t.Key)
		b = protowire.AppendTag(b, 2, protowire.BytesType)
		b = protowire.AppendString(b, t.Value)
	}
	b = appendUint(b, fieldStatus, uint64(r.Status))
	b = appendBool(b, fieldStream, r.Stream)
	b = appendBool(b, fieldEstimated, r.Estimated)
	b = appendBool(b, fieldUnknownMeter, r.UnknownMeter)
	for m, q := range r.Meters {
		if q == 0 {
			continue
		}
		size := protowire.SizeTag(1)*2 + protowire.SizeVarint(uint64(m)) + protowire.SizeVarint(q)
		b = protowire.AppendTag(b, fieldMeters, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(size))
		b = protowire.AppendTag(b, 1, protowire.VarintType)
		b = protowire.AppendVarint(b, uint64(m))
		b = protowire.AppendTag(b, 2, protowire.VarintType)
		b = protowire.AppendVarint(b, q)
	}
	b = appendUint(b, fieldReserved, uint64(r.Reserved))
	b = appendUint(b, fieldCost, uint64(r.Cost))
	b = appendUint(b, fieldPrice, uint64(r.Price))
	b = appendUint(b, fieldHTTPStatus, uint64(r.HTTPStatus))
	b = appendUint(b, fieldLatencyMs, uint64(r.LatencyMs))
	return appendUint(b, fieldTTFTMs, uint64(r.TTFTMs))
}

// ParseRecord reads one record. Its strings share one copy of b. Any failure
// wraps ErrMalformed; no input panics.
func ParseRecord(b []byte) (Record, error) {
	var r Record
	var version uint64
	text := string(b)
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return Record{}, fmt.Errorf("%w: %w", ErrMalformed, protowire.ParseError(n))
		}
		b = b[n:]
		var err error
		switch typ {
		case protowire.VarintType:
			v, m := protowire.ConsumeVarint(b)
			if n = m; n >= 0 {
				if num == fieldVersion {
					version = v
				}
				err = r.setUint(num, v)
			}
		case protowire.BytesType:
			v, m := protowire.ConsumeBytes(b)
			if n = m; n >= 0 {
				start := len(text) - len(b) + n - len(v)
				err = r.setText(num, text[start:start+len(v)])
			}
		default:
			n = protowire.ConsumeFieldValue(num, typ, b)
		}
		if n < 0 {
			err = protowire.ParseError(n)
		}
		if err != nil {
			return Record{}, fmt.Errorf("%w: field %d: %w", ErrMalformed, num, err)
		}
		b = b[n:]
	}
	if version != Version {
		return Record{}, fmt.Errorf("%w: version %d, this program reads version %d", ErrMalformed, version, Version)
	}
	return r, r.Check()
}

// Check refuses what no writer may write and no reader could use, so that
// later stages need not. The error wraps ErrMalformed.
func (r *Record) Check() error {
	wrong := ""
	switch {
	case r.Kind < KindIntent || r.Kind > KindClose:
		wrong = "kind " + r.Kind.String()
	case r.LeaseID == "" || r.Customer == "":
		wrong = "no lease or no customer"
	case (r.Seq == 0) != (r.Kind == KindIntent):
		wrong = "a seq where none belongs, or none where one does"
	case r.Seq > math.MaxInt64:
		wrong = "seq out of range"
	case r.Cost < 0 || r.Price < 0 || r.Reserved < 0 || r.Returned < 0 || r.CostSum < 0 || r.PriceSum < 0:
		wrong = "a negative amount"
	case r.Kind.IsEvent() && (r.Row < RowUsage || r.Row > RowRerate):
		wrong = "row " + r.Row.String()
	case r.Kind.IsEvent() && r.Row != RowUsage && (r.Cost != 0 || r.Price != 0):
		wrong = "an amount on a row of kind " + r.Row.String()
	default:
		return nil
	}
	return fmt.Errorf("%w: %s", ErrMalformed, wrong)
}

func (r *Record) setUint(num protowire.Number, v uint64) error {
	switch num {
	case fieldKind:
		return setByte(&r.Kind, v)
	case fieldSeq:
		r.Seq = v
	case fieldTimeMs:
		r.TimeMs = int64(v)
	case fieldRow:
		return setByte(&r.Row, v)
	case fieldStatus:
		return setByte(&r.Status, v)
	case fieldStream:
		r.Stream = v != 0
	case fieldEstimated:
		r.Estimated = v != 0
	case fieldUnknownMeter:
		r.UnknownMeter = v != 0
	case fieldReserved:
		r.Reserved = money.Nano(v)
	case fieldCost:
		r.Cost = money.Nano(v)
	case fieldPrice:
		r.Price = money.Nano(v)
	case fieldHTTPStatus:
		r.HTTPStatus = uint32(v)
	case fieldLatencyMs:
		r.LatencyMs = uint32(v)
	case fieldTTFTMs:
		r.TTFTMs = uint32(v)
	case fieldReturned:
		r.Returned = money.Nano(v)
	case fieldCount:
		r.Count = v
	case fieldCostSum:
		r.CostSum = money.Nano(v)
	case fieldPriceSum:
		r.PriceSum = money.Nano(v)
	}
	return nil
}

func (r *Record) setText(num protowire.Number, v string) error {
	switch num {
	case fieldLeaseID:
		r.LeaseID = v
	case fieldCustomer:
		r.Customer = v
	case fieldGateway:
		r.Gateway = v
	case fieldRequestID:
		r.RequestID = v
	case fieldKeyID:
		r.KeyID = v
	case fieldProvider:
		r.Provider = v
	case fieldAPI:
		r.API = v
	case fieldModel:
		r.Model = v
	case fieldAnswered:
		r.Answered = v
	case fieldModelBilled:
		r.ModelBilled = v
	case fieldPlan:
		r.Plan = v
	case fieldRule:
		r.Rule = v
	case fieldSource:
		r.Source = v
	case fieldExternalID:
		r.ExternalID = v
	case fieldCostCard:
		r.CostCard = v
	case fieldPriceCard:
		r.PriceCard = v
	case fieldCurrency:
		r.Currency = v
	case fieldTags:
		return r.addTag(v)
	case fieldMeters:
		return r.setMeter(v)
	}
	return nil
}

func (r *Record) addTag(v string) error {
	var tag Tag
	b := []byte(v)
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 || typ != protowire.BytesType {
			return errors.New("a broken tag")
		}
		s, m := protowire.ConsumeString(b[n:])
		if m < 0 {
			return errors.New("a broken tag")
		}
		switch num {
		case 1:
			tag.Key = s
		case 2:
			tag.Value = s
		}
		b = b[n+m:]
	}
	r.Tags = append(r.Tags, tag)
	return nil
}

// setMeter refuses a meter this program does not know: its amount could not be
// rated, and dropping it would bill too little.
func (r *Record) setMeter(v string) error {
	var pair [3]uint64
	b := []byte(v)
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 || typ != protowire.VarintType || num > 2 {
			return errors.New("a broken quantity")
		}
		q, m := protowire.ConsumeVarint(b[n:])
		if m < 0 {
			return errors.New("a broken quantity")
		}
		pair[num] = q
		b = b[n+m:]
	}
	if pair[1] >= NumMeters {
		return fmt.Errorf("meter %d is unknown", pair[1])
	}
	r.Meters[pair[1]] = pair[2]
	return nil
}

func setByte[T ~uint8](to *T, v uint64) error {
	if v > math.MaxUint8 {
		return fmt.Errorf("%d is out of range", v)
	}
	*to = T(v)
	return nil
}

func appendUint(b []byte, num protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), v)
}

func appendBool(b []byte, num protowire.Number, v bool) []byte {
	if !v {
		return b
	}
	return appendUint(b, num, 1)
}

func appendString(b []byte, num protowire.Number, v string) []byte {
	if v == "" {
		return b
	}
	return protowire.AppendString(protowire.AppendTag(b, num, protowire.BytesType), v)
}
