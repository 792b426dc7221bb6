package standin

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
)

const (
	// fillerBytes is the longest text of one answer, reached at 16 Ki tokens; longer answers
	// count their tokens but repeat no more text.
	fillerBytes = 64 << 10
	// bytesPerToken is what a token of English text takes on average.
	bytesPerToken = 4
)

// filler is text that needs no escaping in JSON. It is cut, never built, for an answer.
var filler = strings.Repeat("the river runs over the weir and nothing passes it unmeasured; ", fillerBytes/60)[:fillerBytes]

// text is an answer's text of so many tokens.
func text(tokens int) string {
	return filler[:min(tokens*bytesPerToken, fillerBytes)]
}

// deltaText is the text of delta i, whose tokens are its even share of the visible output.
func (p *plan) deltaText(i int) string {
	tokens := p.served(i+1).Output - p.served(i).Output
	at := i * bytesPerToken % (fillerBytes / 2)
	return filler[at : at+min(tokens*bytesPerToken, fillerBytes/2)]
}

// failure is an error answer before it takes a provider's shape.
type failure struct {
	status    int
	code      string
	param     string
	message   string
	requestID string
}

var wrongKey = failure{status: http.StatusUnauthorized, code: "invalid_api_key", message: "the provider key is not valid"}

// retryAfterSeconds is what a 429 and a 503 tell.
const retryAfterSeconds = "2"

func setRetryAfter(h http.Header, status int) {
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		h.Set("Retry-After", retryAfterSeconds)
	}
}

// mix spreads a counter over 64 bits (the finalizer of splitmix64), so that ids look like ids.
func mix(v uint64) uint64 {
	v += 0x9e3779b97f4a7c15
	v = (v ^ v>>30) * 0xbf58476d1ce4e5b9
	v = (v ^ v>>27) * 0x94d049bb133111eb
	return v ^ v>>31
}

const alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// appendID appends so many letters that follow from id; 11 of them hold all its bits.
func appendID(b []byte, id uint64, letters int) []byte {
	v := id
	for i := range letters {
		if i > 0 && i%11 == 0 {
			v = mix(id + uint64(i))
		}
		b = append(b, alphabet[v%uint64(len(alphabet))])
		v /= uint64(len(alphabet))
	}
	return b
}

func requestID(id uint64) string {
	return string(appendID([]byte("req_"), mix(id), 24))
}

// appendInt appends a member's name, given with its punctuation, and its value.
func appendInt(b []byte, name string, v int) []byte {
	return strconv.AppendInt(append(b, name...), int64(v), 10)
}

// appendUnknown appends a usage member that no API documents, if the plan has one.
func appendUnknown(b []byte, p *plan) []byte {
	if p.unknown == 0 {
		return b
	}
	return appendInt(b, `,"experimental_tokens":`, p.unknown)
}

// quote is for texts off the hot path; a string always marshals.
func quote(s string) string {
	q, _ := json.Marshal(s)
	return string(q)
}

// models are the lists that GET /v1/models answers, by provider.
var models = map[string][]byte{
	"openai": []byte(`{"object":"list","data":[` +
		`{"id":"gpt-4o","object":"model","created":1715367049,"owned_by":"system"},` +
		`{"id":"gpt-4o-mini","object":"model","created":1721172741,"owned_by":"system"},` +
		`{"id":"gpt-4.1-mini","object":"model","created":1744318173,"owned_by":"system"},` +
		`{"id":"text-embedding-3-small","object":"model","created":1705948997,"owned_by":"system"}]}`),
	"anthropic": []byte(`{"data":[` +
		`{"type":"model","id":"claude-sonnet-4-5-20250929","display_name":"Claude Sonnet 4.5","created_at":"2025-09-29T00:00:00Z"},` +
		`{"type":"model","id":"claude-haiku-4-5-20251001","display_name":"Claude Haiku 4.5","created_at":"2025-10-15T00:00:00Z"}],` +
		`"has_more":false,"first_id":"claude-sonnet-4-5-20250929","last_id":"claude-haiku-4-5-20251001"}`),
}
