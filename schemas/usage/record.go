package usage

import (
	"strconv"

	"weir/schemas/money"
)

// Version is the version of the record format. A reader refuses any other;
// fields may be added under one version, since unknown fields are skipped.
// A change of meaning takes the next number and keeps reading this one until
// no spool and no topic can still hold it.
const Version = 1

// Kind tells what a record says.
type Kind uint8

// The five kinds. An intent is written before the upstream call, stays in the
// spool and has no seq. Every intent gets exactly one result: Usage or
// Unknown. Return and Close speak of the lease itself.
const (
	KindIntent  Kind = 1
	KindUsage   Kind = 2
	KindUnknown Kind = 3
	KindReturn  Kind = 4
	KindClose   Kind = 5
)

var kindNames = [...]string{"", "intent", "usage", "unknown", "return", "close"}

// String is the kind's name for people.
func (k Kind) String() string { return name(kindNames[:], uint8(k)) }

// IsEvent tells whether a record of this kind is a usage event: one row in the
// warehouse, counted by the tie-out.
func (k Kind) IsEvent() bool { return k == KindUsage || k == KindUnknown }

// Row is the kind of an event's warehouse row.
type Row uint8

// The row kinds: usage is billed, leakage may have been served and is not
// billed, error was certainly not served, rerate corrects an earlier row.
const (
	RowUsage   Row = 1
	RowLeakage Row = 2
	RowError   Row = 3
	RowRerate  Row = 4
)

var rowNames = [...]string{"", "usage", "leakage", "error", "rerate"}

// String is the row kind's name in the warehouse.
func (r Row) String() string { return name(rowNames[:], uint8(r)) }

// Status tells how an upstream call ended.
type Status uint8

// The statuses. Partial: the upstream ended without terminator or with an
// error event. ClientGone: the client left first, drained or not.
// UpstreamError: a 4xx/5xx answer or none. Unknown: nobody can tell.
const (
	StatusOK            Status = 1
	StatusPartial       Status = 2
	StatusClientGone    Status = 3
	StatusUpstreamError Status = 4
	StatusUnknown       Status = 5
)

var statusNames = [...]string{"", "ok", "partial", "client_gone", "upstream_error", "unknown"}

// String is the status' name in the warehouse.
func (s Status) String() string { return name(statusNames[:], uint8(s)) }

// Tag is one dimension a client attached to a request.
type Tag struct{ Key, Value string }

// Record is one entry of the spool and of the usage log. Which fields are set
// depends on Kind: all kinds carry the first group; an intent carries what was
// known at admission; usage and unknown carry everything a warehouse row and
// the rating need; return and close carry their own group alone.
type Record struct {
	Kind     Kind
	LeaseID  string
	Seq      uint64 // position in the lease, from 1; 0 for an intent
	Customer string // names the wallet and is the log's key
	Gateway  string
	TimeMs   int64 // Unix milliseconds

	Row         Row
	RequestID   string
	KeyID       string
	Provider    string
	API         string
	Model       string // as asked, without provider
	Answered    string // the model the answer names, or empty
	ModelBilled string // the card's entry that priced it
	Plan        string
	Rule        string // the selectors of the rule chosen at admission
	CostCard    string // SHA-256 of the card's models, 64 hex digits
	PriceCard   string // SHA-256 of the card's rules, 64 hex digits
	Currency    string
	Tags        []Tag
	Status      Status
	Stream      bool
	Estimated   bool
	// UnknownMeter: the answer's usage had a non-zero member no meter covers.
	UnknownMeter bool
	Meters       Quantities
	Reserved     money.Nano // the upper bound taken from the lease
	Cost         money.Nano // the promise: what settles
	Price        money.Nano // the promise: what settles
	HTTPStatus   uint32     // of the upstream's answer; 0 when there was none
	LatencyMs    uint32
	TTFTMs       uint32

	Returned money.Nano // return: how much of the grant goes back

	Count    uint64     // close: events written under the lease
	CostSum  money.Nano // close: Σ cost of these events
	PriceSum money.Nano // close: Σ price of these events

	// Source and ExternalID identify usage that was reported from outside: of
	// all records of a customer with the same two, one is billed. Empty for what
	// a gateway metered itself.
	Source, ExternalID string
}

// EventID is the identity of an event everywhere: "lease:seq".
func (r *Record) EventID() string { return string(r.AppendEventID(nil)) }

// AppendEventID appends EventID to b without allocating.
func (r *Record) AppendEventID(b []byte) []byte {
	b = append(b, r.LeaseID...)
	b = append(b, ':')
	return strconv.AppendUint(b, r.Seq, 10)
}

// AppendTieText appends the text whose xxHash64 goes into a manifest:
// "event_id:cost_nano:price_nano".
func (r *Record) AppendTieText(b []byte) []byte {
	b = append(r.AppendEventID(b), ':')
	b = append(strconv.AppendInt(b, int64(r.Cost), 10), ':')
	return strconv.AppendInt(b, int64(r.Price), 10)
}

func name(names []string, i uint8) string {
	if int(i) < len(names) {
		return names[i]
	}
	return "invalid(" + strconv.Itoa(int(i)) + ")"
}
