// Package provider is what the gateway knows of the AI providers' APIs: what a
// request may cost at most, what an answer did cost, and which bytes may be
// forwarded when. One API is one table (package openai, package anthropic);
// this package reads bodies and streams by such a table, byte by byte, without
// decoding them into values.
package provider

// API is one metered route: the tables by which its requests and answers are
// read. It is made once and never changed, so it may be used by all requests
// at once.
type API struct {
	Name     string // as in usage events: "openai.chat"
	Provider string // the kind of provider it belongs to: "openai"
	Errors   Shape  // how its clients expect errors

	// Features is the header that switches features on, "" (no header) if none does.
	// Only FreeFeatures, named without their dates, are priced.
	Features     string
	FreeFeatures []string

	Request Table // the members of a request that matter
	Answer  Table // the members of a whole JSON answer that matter
	Event   Table // the members of one event of a stream that matter

	// Done is the data of the event that ends a stream, where that is no JSON.
	Done string
	// Cumulative: the usage objects of one stream complete each other, member
	// by member. Otherwise the last one stands for all.
	Cumulative bool
	// Meter turns reported counts into exclusive meters: it sets Meters,
	// InputSeen and OutputSeen, and splits totals with Answer.Part.
	Meter func(n *Counts, a *Answer)
}

// Refusal is the error of a request that is not served, in the gateway's own
// terms: Status and Code are those of the error answer, Field is the path of
// the member it is about, "" for the body as a whole.
type Refusal struct {
	Status  int
	Code    string
	Message string
	Field   string
}

// Error is the code and the sentence for people.
func (r *Refusal) Error() string { return r.Code + ": " + r.Message }
