package gateway

import (
	"bytes"
	"net/http"
	"strings"

	"github.com/valyala/fasthttp"
)

// headersRead are the headers that decide something here: who pays, where the
// body ends, what it is. The first of them are those that carry a key.
var headersRead = [...]string{"authorization", "x-api-key", "x-goog-api-key", "x-weir-customer", "host", "content-length",
	"transfer-encoding", "content-encoding", "content-type", "expect", "connection", "anthropic-version", "anthropic-beta"}

// The places in headersRead of those that have rules of their own.
const (
	lastKeyHeader        = 2
	contentLengthHeader  = 5
	transferCodingHeader = 6
	connectionHeader     = 10
	betaHeader           = 12
)

// hopOptions are what Connection may say. Whatever else it names, a proxy in
// front may have taken out, or may yet.
var hopOptions = [...]string{"close", "keep-alive", "te", "upgrade", "http2-settings"}

// wellFormed answers requests whose head could be read in two ways, by weir and
// by a proxy in front of it: nothing of them is believed, and the connection
// ends, since nobody can say where the next request begins. fasthttp lets more
// pass than that: folded lines, lines that end in a bare LF, names with spaces,
// repeated credentials, two framings of one body, trailers. What it refuses
// itself is not looked for again.
func (g *Gateway) wellFormed(ctx *fasthttp.RequestCtx, c *call) bool {
	header := &ctx.Request.Header
	target := header.RequestURI()
	var no *refusal
	switch protocol := string(header.Protocol()); {
	case protocol != "HTTP/1.1" && protocol != "HTTP/1.0":
		no = malformed("The request is of a version of HTTP that is not served here.")
	case len(target) == 0 || target[0] != '/':
		no = malformed("The request target must be a path.")
	case len(header.PeekTrailerKeys()) > 0: // fasthttp finds them beside the headers: a key, or who pays
		no = malformed("A trailer after the body is not taken.")
	default:
		no = checkHead(header.RawHeaders())
	}
	if no == nil {
		return true
	}
	c.shape = shapeOf(target)
	ctx.SetConnectionClose()
	g.refuse(ctx, c, no)
	return false
}

func malformed(message string) *refusal {
	return &refusal{status: http.StatusBadRequest, code: "invalid_request", message: message}
}

// checkHead reads a block of headers as it came, with the empty line at its end.
func checkHead(block []byte) *refusal {
	var seen [len(headersRead)]bool
	for len(block) > 0 {
		n := bytes.IndexByte(block, '\n')
		if n < 1 || block[n-1] != '\r' {
			return malformed("Every line of the headers must end with CRLF.")
		}
		line := block[:n-1]
		if block = block[n+1:]; len(line) == 0 {
			break
		}
		if no := checkLine(line, &seen); no != nil {
			return no
		}
	}
	switch {
	case len(block) > 0:
		return malformed("The headers end twice.")
	case seen[contentLengthHeader] && seen[transferCodingHeader]:
		return malformed("The request has both a Content-Length and a Transfer-Encoding.")
	}
	return nil
}

// checkLine reads one line of headers.
func checkLine(line []byte, seen *[len(headersRead)]bool) *refusal {
	name, value, colon := bytes.Cut(line, []byte(":"))
	if !colon || len(name) == 0 || bytes.ContainsAny(name, " \t") { // folded lines begin with one
		return malformed("A header is folded over two lines, or its name is missing or has a space in it.")
	}
	at, exact := headerRead(name)
	if at < 0 {
		return nil
	}
	again := seen[at]
	seen[at] = true
	value = bytes.TrimSpace(value)
	switch {
	case !exact:
		return malformed("The header " + headersRead[at] + " is there under a name that others may read as its own.")
	case again && at <= lastKeyHeader:
		return &refusal{status: http.StatusBadRequest, code: "ambiguous_key", message: "The header " + headersRead[at] + " is there twice."}
	case again && at != connectionHeader && at != betaHeader:
		return malformed("The header " + headersRead[at] + " is there twice.")
	case at == transferCodingHeader && !strings.EqualFold(string(value), "chunked"):
		return malformed("No Transfer-Encoding but chunked is taken.")
	case at == connectionHeader && !namesHop(value):
		return malformed("The header connection names a header that is none of its own.")
	}
	return nil
}

// headerRead finds a header among those that are read. It is not exact where
// only a server that takes underscores for hyphens, as gateways of the CGI kind
// do, finds it.
func headerRead(name []byte) (at int, exact bool) {
	if bytes.IndexByte(name, '_') >= 0 {
		name = bytes.Trim(bytes.ReplaceAll(name, []byte("_"), []byte("-")), "-")
		at, _ = headerRead(name)
		return at, false
	}
	for i, read := range headersRead {
		if len(name) == len(read) && strings.EqualFold(string(name), read) {
			return i, true
		}
	}
	return -1, false
}

func namesHop(options []byte) bool {
	for option := range bytes.SplitSeq(options, []byte(",")) {
		option = bytes.TrimSpace(option)
		known := len(option) == 0
		for _, hop := range hopOptions {
			known = known || strings.EqualFold(string(option), hop)
		}
		if !known {
			return false
		}
	}
	return true
}
