package standin

import (
	"net/http"
	"strconv"
)

var anthropicMessages = dialect{
	provider: "anthropic", api: apiMessages,
	id:     func(b []byte, id uint64) []byte { return appendID(append(b, "msg_01"...), id, 22) },
	answer: messageAnswer, frames: messageFrames, failure: anthropicFailure, headers: anthropicHeaders,
	check: func(r *http.Request, a *ask) *failure {
		switch {
		case r.Header.Get("Anthropic-Version") == "":
			return &failure{status: http.StatusBadRequest, message: "anthropic-version: header is required"}
		case len(a.Messages) == 0:
			return &failure{status: http.StatusBadRequest, message: "messages: field required"}
		case a.MaxTokens == nil:
			return &failure{status: http.StatusBadRequest, message: "max_tokens: field required"}
		case *a.MaxTokens < 1:
			return &failure{status: http.StatusBadRequest, message: "max_tokens: must be greater than or equal to 1"}
		}
		return nil
	},
}

func anthropicHeaders(h http.Header, requestID string, f failure) {
	h["Request-Id"] = []string{requestID}
	setRetryAfter(h, f.status)
}

// anthropicKinds are the error types by status; others are api_error from 500 on and
// invalid_request_error below.
var anthropicKinds = map[int]string{
	http.StatusUnauthorized:          "authentication_error",
	http.StatusPaymentRequired:       "billing_error",
	http.StatusForbidden:             "permission_error",
	http.StatusNotFound:              "not_found_error",
	http.StatusRequestEntityTooLarge: "request_too_large",
	http.StatusTooManyRequests:       "rate_limit_error",
	http.StatusGatewayTimeout:        "timeout_error",
	statusOverloaded:                 "overloaded_error",
}

// statusOverloaded is the provider's own status for too much load.
const statusOverloaded = 529

func anthropicFailure(b []byte, f failure) []byte {
	kind := anthropicKinds[f.status]
	if kind == "" && f.status >= 500 {
		kind = "api_error"
	} else if kind == "" {
		kind = "invalid_request_error"
	}
	b = append(b, `{"type":"error","error":{"type":"`+kind+`","message":`...)
	b = append(append(b, quote(f.message)...), `},"request_id":"`...)
	return append(append(b, f.requestID...), `"}`...)
}

// messageHead opens a message, up to and with the name "content".
func messageHead(c *call, b []byte) []byte {
	b = append(append(b, `{"model":`...), c.plan.model...)
	b = append(append(b, `,"id":"`...), c.line.UpstreamRequestID...)
	return append(b, `","type":"message","role":"assistant","content":`...)
}

// appendMessageInput opens a usage object with its prompt members: cache reads and writes stand
// beside the input.
func appendMessageInput(b []byte, p *plan) []byte {
	m := &p.meters
	b = appendInt(b, `"usage":{"input_tokens":`, m.Input)
	b = appendInt(b, `,"cache_creation_input_tokens":`, m.CacheWrite5m+m.CacheWrite1h)
	b = appendInt(b, `,"cache_read_input_tokens":`, m.CachedInput)
	return appendUnknown(b, p)
}

// appendMessageUsage appends the usage of a whole message; output is all of its tokens, for
// this API counts thinking as output.
func appendMessageUsage(b []byte, p *plan, output int) []byte {
	m := &p.meters
	b = appendMessageInput(b, p)
	b = appendInt(b, `,"cache_creation":{"ephemeral_5m_input_tokens":`, m.CacheWrite5m)
	b = appendInt(b, `,"ephemeral_1h_input_tokens":`, m.CacheWrite1h)
	b = appendInt(b, `},"output_tokens":`, output)
	return append(b, `,"service_tier":"standard"}`...)
}

func (p *plan) messageStop() string {
	switch {
	case p.limited:
		return `"max_tokens"`
	case p.tool != "":
		return `"tool_use"`
	}
	return `"end_turn"`
}

func messageAnswer(c *call, b []byte) []byte {
	m := &c.plan.meters
	b = append(messageHead(c, b), '[')
	if c.plan.tool == "" {
		b = append(append(append(b, `{"type":"text","text":"`...), text(m.Output)...), `"}`...)
	} else {
		b = append(b, messageCall(c, argumentBefore+text(m.Output)+argumentBehind)...)
	}
	b = append(b, `],"stop_reason":`+c.plan.messageStop()+`,"stop_sequence":null`...)
	if c.plan.fault != faultNoUsage {
		b = appendMessageUsage(append(b, ','), &c.plan, m.Output)
	}
	return append(b, '}')
}

// messageCall is a call of a tool with its input. In a stream that is empty at
// first.
func messageCall(c *call, input string) string {
	return `{"type":"tool_use","id":"` + string(appendID([]byte("toolu_01"), c.id, 22)) + `","name":"` + c.plan.tool + `","input":` + input + `}`
}

// messageFrames renders a stream: message_start with the prompt's usage, one block of text or of a tool's call, and
// message_delta with the usage of the whole. message_stop terminates.
func messageFrames(c *call) frames {
	p := &c.plan
	var f frames
	f.open = messageHead(c, []byte(`event: message_start`+"\n"+`data: {"type":"message_start","message":`))
	f.open = append(f.open, `[],"stop_reason":null,"stop_sequence":null`...)
	if p.fault != faultNoUsage {
		f.open = appendMessageUsage(append(f.open, ','), p, min(1, p.meters.Output))
	}
	block := `{"type":"text","text":""}`
	if p.tool != "" {
		block = messageCall(c, "{}")
	}
	f.open = append(f.open, `}}`+"\n\n"+
		`event: content_block_start`+"\n"+
		`data: {"type":"content_block_start","index":0,"content_block":`+block+`}`+"\n\n"+
		`event: ping`+"\n"+`data: {"type":"ping"}`+"\n\n"...)
	f.delta = func(b []byte, i int) []byte {
		b = append(b, `event: content_block_delta`+"\n"+`data: {"type":"content_block_delta","index":0,"delta":`...)
		if p.tool != "" {
			before, behind := p.argument(i)
			return append(b, `{"type":"input_json_delta","partial_json":`+quote(before+p.deltaText(i)+behind)+"}}\n\n"...)
		}
		b = append(b, `{"type":"text_delta","text":"`...)
		return append(append(b, p.deltaText(i)...), `"}}`+"\n\n"...)
	}
	f.finish = append(f.finish, `event: content_block_stop`+"\n"+`data: {"type":"content_block_stop","index":0}`+"\n\n"+
		`event: message_delta`+"\n"+`data: {"type":"message_delta","delta":{"stop_reason":`+p.messageStop()+`,"stop_sequence":null}`...)
	if p.fault != faultNoUsage {
		f.finish = appendMessageInput(append(f.finish, ','), p)
		f.finish = strconv.AppendInt(append(f.finish, `,"output_tokens":`...), int64(p.meters.Output), 10)
		f.finish = append(f.finish, '}')
	}
	f.finish = append(f.finish, "}\n\n"...)
	f.done = []byte("event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n")
	f.broken = anthropicFailure([]byte("event: error\ndata: "),
		failure{status: statusOverloaded, message: "Overloaded", requestID: requestID(c.id)})
	f.broken = append(f.broken, "\n\n"...)
	return f
}
