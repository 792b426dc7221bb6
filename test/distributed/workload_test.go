package distributed

import (
	"fmt"
	"strings"
)

// padding makes prompts long enough for the tokens that the stand-in counts: no
// tokenizer makes more tokens than bytes.
var padding = strings.Repeat("some words of a prompt ", 100)

// chat asks for in prompt tokens and out completion tokens; more are further
// members of the stand-in's marker.
func chat(in, out int, more string) request {
	return request{path: "/openai/v1/chat/completions", body: fmt.Sprintf(
		`{"model":"gpt-4o","max_tokens":200,"messages":[{"role":"user","content":"[[standin in=%d out=%d %s]] %s"}]}`, in, out, more, padding)}
}

// kinds is how many kinds of requests a workload has, in turn.
const kinds = 14

// workload is a fixed list of requests, whose usage the stand-in derives from
// the prompt alone: all APIs, streams and not, cached and reasoning tokens,
// errors of the provider, answers that break, and clients that leave.
func workload(n int) (list []request) {
	chatBody := func(model, marker, members string) string {
		return fmt.Sprintf(`{"model":%q,"messages":[{"role":"user","content":"[[standin %s]] %s"}]%s}`, model, marker, padding, members)
	}
	for i := range n {
		in, out := 100+7*(i%100), 5+i%120
		usage := fmt.Sprintf("in=%d out=%d", in, out)
		q := request{path: "/openai/v1/chat/completions"}
		switch i % kinds {
		case 0, 1:
			q.body = chatBody("gpt-4o", usage, `,"max_tokens":200`)
		case 2:
			q.body = chatBody("gpt-4o-mini", usage+" cached=50", `,"max_completion_tokens":200`)
		case 3:
			q.body = chatBody("o4-mini", usage+" reasoning=4", `,"max_completion_tokens":200`)
		case 4:
			q.body = chatBody("gpt-4o-mini", usage+" chunks=5", `,"max_tokens":200,"stream":true`)
		case 5:
			q.body = chatBody("gpt-4o", usage+" chunks=5 cached=64", `,"max_tokens":200,"stream":true,"stream_options":{"include_usage":true}`)
		case 6:
			q = request{path: "/openai/v1/embeddings", body: fmt.Sprintf(`{"model":"text-embedding-3-small","input":"[[standin in=%d]] %s"}`, in, padding)}
		case 7, 8, 9:
			marker, stream := usage, ""
			if i%kinds == 8 {
				marker += " cached=40 cw5m=30 cw1h=20"
			}
			if i%kinds == 9 {
				marker, stream = marker+" chunks=4", `,"stream":true`
			}
			q = request{path: "/anthropic/v1/messages", body: chatBody("claude-sonnet-4-5", marker, `,"max_tokens":200`+stream)}
		case 10:
			q.body = chatBody("gpt-4o", fmt.Sprint("status=", 429+71*(i%2)), `,"max_tokens":200`)
		case 11:
			q.body = chatBody("gpt-4o", usage+" chunks=5 fault=break-stream after=3", `,"max_tokens":200,"stream":true`)
		case 12:
			fault := "no-usage"
			if i%(2*kinds) == 12 {
				fault = "break-body" // leakage
			}
			q.body = chatBody("gpt-4o-mini", usage+" fault="+fault, `,"max_tokens":200`)
		case 13:
			q.body = chatBody("gpt-4o", fmt.Sprintf("in=%d out=60 chunks=12 interval=40ms", in), `,"max_tokens":200,"stream":true`)
			q.leaves = true
		}
		q.tag = fmt.Sprint(i)
		list = append(list, q)
	}
	return list
}
