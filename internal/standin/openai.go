package standin

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"math"
	"net/http"
	"strconv"
)

const (
	// embeddingDimensions is the length of a vector when the request names none.
	embeddingDimensions = 1536
	// embeddingDimensionsMax is that of the largest model.
	embeddingDimensionsMax = 3072
	// component is the text of every component; one width lets any dimension be a cut.
	component = "0.02551551,"
	// fingerprint names the provider's build.
	fingerprint = `"system_fingerprint":"fp_4a331a0222"`
)

var openaiChat = dialect{
	provider: "openai", api: apiChat,
	id:     func(b []byte, id uint64) []byte { return appendID(append(b, "chatcmpl-"...), id, 29) },
	answer: chatAnswer, frames: chatFrames, failure: openaiFailure, headers: openaiHeaders,
	check: func(_ *http.Request, a *ask) *failure {
		if len(a.Messages) == 0 {
			return &failure{status: http.StatusBadRequest, param: "messages", message: "messages are required"}
		}
		return checkLimits(a)
	},
}

var openaiEmbeddings = dialect{
	provider: "openai", api: apiEmbeddings,
	id:     func(b []byte, id uint64) []byte { return append(b, requestID(id)...) }, // the answer itself has none
	answer: embeddingsAnswer, failure: openaiFailure, headers: openaiHeaders,
	check: func(_ *http.Request, a *ask) *failure {
		if len(a.Input) == 0 {
			return &failure{status: http.StatusBadRequest, param: "input", message: "input is required"}
		}
		if a.Dimensions < 0 || a.Dimensions > embeddingDimensionsMax {
			return &failure{status: http.StatusBadRequest, param: "dimensions", message: "dimensions are out of range"}
		}
		return nil
	},
}

// checkLimits refuses output limits below one token.
func checkLimits(a *ask) *failure {
	if limit, named := a.limit(); named && limit < 1 {
		return &failure{status: http.StatusBadRequest, param: "max_tokens", message: "the output limit must be at least 1"}
	}
	return nil
}

func openaiHeaders(h http.Header, requestID string, f failure) {
	h["X-Request-Id"] = []string{requestID}
	h["Openai-Version"] = []string{"2020-10-01"}
	h["Openai-Processing-Ms"] = []string{"1"}
	setRetryAfter(h, f.status)
}

func openaiFailure(b []byte, f failure) []byte {
	kind := "invalid_request_error"
	switch {
	case f.status == http.StatusTooManyRequests:
		kind, f.code = "requests", "rate_limit_exceeded"
	case f.status >= 500:
		kind = "server_error"
	}
	orNull := func(s string) string {
		if s == "" {
			return "null"
		}
		return quote(s)
	}
	b = append(b, `{"error":{"message":`...)
	b = append(b, quote(f.message)...)
	b = append(b, `,"type":"`+kind+`","param":`+orNull(f.param)+`,"code":`+orNull(f.code)+`}}`...)
	return b
}

// chatHead opens an answer or a chunk, up to and with the name "choices".
func chatHead(c *call, b []byte, object string) []byte {
	b = append(b, `{"id":"`...)
	b = append(b, c.line.UpstreamRequestID...)
	b = append(b, `","object":"`+object+`","created":`...)
	b = strconv.AppendInt(b, c.line.Time.Unix(), 10)
	b = append(b, `,"model":`...)
	b = append(b, c.plan.model...)
	b = append(b, `,"service_tier":"default",`+fingerprint+`,"choices":`...)
	return b
}

// appendChatUsage appends usage as the chat API counts it: cached within the prompt,
// reasoning within the completion.
func appendChatUsage(b []byte, p *plan) []byte {
	m := &p.meters
	prompt, completion := m.Input+m.CachedInput, m.Output+m.Reasoning
	b = appendInt(b, `"usage":{"prompt_tokens":`, prompt)
	b = appendInt(b, `,"completion_tokens":`, completion)
	b = appendInt(b, `,"total_tokens":`, prompt+completion)
	b = appendInt(b, `,"prompt_tokens_details":{"cached_tokens":`, m.CachedInput)
	b = appendInt(b, `,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":`, m.Reasoning)
	b = append(b, `,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}`...)
	return append(appendUnknown(b, p), '}')
}

func (p *plan) chatFinish() string {
	switch {
	case p.limited:
		return `"length"`
	case p.tool != "":
		return `"tool_calls"`
	}
	return `"stop"`
}

func chatAnswer(c *call, b []byte) []byte {
	b = chatHead(c, b, "chat.completion")
	for i := range c.plan.choices {
		b = appendInt(append(b, "[,"[min(i, 1)]), `{"index":`, i)
		b = append(b, `,"message":{"role":"assistant","content":`...)
		if words := text(c.plan.meters.Output / c.plan.choices); c.plan.tool == "" {
			b = append(append(append(b, '"'), words...), '"')
		} else {
			b = append(append(b, `null,"tool_calls":[{`...), chatCall(c, i, quote(argumentBefore+words+argumentBehind))...)
			b = append(b, ']')
		}
		b = append(b, `,"refusal":null,"annotations":[]},"logprobs":null,"finish_reason":`+c.plan.chatFinish()+`}`...)
	}
	b = append(b, ']')
	if c.plan.fault != faultNoUsage {
		b = appendChatUsage(append(b, ','), &c.plan)
	}
	return append(b, '}')
}

// chatCall is a choice's call of a tool but for the brace that opens it, with its
// arguments as a JSON string. In a stream they are empty at first.
func chatCall(c *call, choice int, arguments string) string {
	return `"id":"` + string(appendID([]byte("call_"), c.id+uint64(choice), 24)) +
		`","type":"function","function":{"name":"` + c.plan.tool + `","arguments":` + arguments + `}}`
}

// chatFrames renders a stream: a role chunk, deltas that take turns over the choices, a chunk
// that ends each choice, the usage chunk if it was asked for, and the terminator.
func chatFrames(c *call) frames {
	p := &c.plan
	head := chatHead(c, []byte("data: "), "chat.completion.chunk")
	tail := `,"obfuscation":"kQ7x"}` + "\n\n"
	if p.usage {
		tail = `,"usage":null` + tail
	}
	chunk := func(b []byte, choice int, delta, finish string) []byte {
		b = appendInt(append(b, head...), `[{"index":`, choice)
		b = append(append(b, `,"delta":{`...), delta...)
		b = append(append(b, `},"logprobs":null,"finish_reason":`...), finish...)
		return append(append(b, `}]`...), tail...)
	}
	f := frames{done: []byte("data: [DONE]\n\n")}
	for choice := range p.choices {
		first := `"role":"assistant","content":"","refusal":null`
		if p.tool != "" {
			first = `"role":"assistant","content":null,"tool_calls":[{"index":0,` + chatCall(c, choice, `""`) + `],"refusal":null`
		}
		f.open = chunk(f.open, choice, first, "null")
		f.finish = chunk(f.finish, choice, "", p.chatFinish())
	}
	f.delta = func(b []byte, i int) []byte {
		if p.tool != "" {
			before, behind := p.argument(i)
			return chunk(b, i%p.choices, `"tool_calls":[{"index":0,"function":{"arguments":`+quote(before+p.deltaText(i)+behind)+`}}]`, "null")
		}
		return chunk(b, i%p.choices, `"content":"`+p.deltaText(i)+`"`, "null")
	}
	if p.usage {
		f.finish = append(append(f.finish, head...), `[],`...)
		f.finish = append(appendChatUsage(f.finish, p), `,"obfuscation":""}`+"\n\n"...)
	}
	failed := failure{status: http.StatusInternalServerError, message: "the model stopped in the middle of its answer"}
	f.broken = append(openaiFailure([]byte("data: "), failed), "\n\n"...)
	return f
}

// vectorText and vectorBytes are one vector of the greatest length in both encodings.
var (
	vectorText  = bytes.Repeat([]byte(component), embeddingDimensionsMax)
	vectorBytes = bytes.Repeat(binary.LittleEndian.AppendUint32(nil, math.Float32bits(0.02551551)), embeddingDimensionsMax)
)

func embeddingsAnswer(c *call, b []byte) []byte {
	dims := c.ask.Dimensions
	if dims == 0 {
		dims = embeddingDimensions
	}
	b = append(b, `{"object":"list","data":[`...)
	for i := range inputCount(c.ask.Input) {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendInt(b, `{"object":"embedding","index":`, i), `,"embedding":`...)
		if c.ask.EncodingFormat == "base64" {
			b = base64.StdEncoding.AppendEncode(append(b, '"'), vectorBytes[:dims*4])
			b = append(b, `"}`...)
		} else {
			b = append(append(b, '['), vectorText[:dims*len(component)-1]...)
			b = append(b, `]}`...)
		}
	}
	b = append(append(b, `],"model":`...), c.plan.model...)
	if c.plan.fault != faultNoUsage {
		b = appendInt(b, `,"usage":{"prompt_tokens":`, c.plan.meters.Input)
		b = append(appendInt(b, `,"total_tokens":`, c.plan.meters.Input), '}')
	}
	return append(b, '}')
}

// inputCount is how many vectors an input asks for: one for a string and for a list of token
// numbers, else one for each member of the list.
func inputCount(input json.RawMessage) int {
	var members []json.RawMessage
	if json.Unmarshal(input, &members) != nil || len(members) == 0 {
		return 1
	}
	if first := members[0][0]; first != '"' && first != '[' {
		return 1
	}
	return len(members)
}
