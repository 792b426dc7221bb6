package standin

import (
	"encoding/json"
	"io"
	"strconv"
	"strings"
	"testing"
)

// arguments reads what a tool was called with.
func arguments(t *testing.T, text string) string {
	t.Helper()
	var object struct{ Text string }
	if err := json.Unmarshal([]byte(text), &object); err != nil {
		t.Fatalf("arguments %q: %v", text, err)
	}
	return object.Text
}

// TestToolCalls: a marker makes the answer a call of a tool, whose arguments are
// the output; in a stream they come in pieces that only together are JSON.
func TestToolCalls(t *testing.T) {
	s := newStation(t)
	want := text(40)
	_, whole := s.whole(chatPath, chat("out=80 tool=gauge", `,"n":2`))
	for _, choice := range []string{"choices.0.", "choices.1."} {
		call := choice + "message.tool_calls.0."
		if at(t, whole, choice+"finish_reason") != "tool_calls" || at(t, whole, choice+"message.content") != "<nil>" || at(t, whole, call+"function.name") != "gauge" ||
			at(t, whole, call+"type") != "function" || !strings.HasPrefix(at(t, whole, call+"id"), "call_") || arguments(t, at(t, whole, call+"function.arguments")) != text(80) {
			t.Errorf("%s", whole)
		}
	}
	if a, b := at(t, whole, "choices.0.message.tool_calls.0.id"), at(t, whole, "choices.1.message.tool_calls.0.id"); a == b {
		t.Errorf("both choices call %s", a)
	}
	_, whole = s.whole(messagesPath, message("out=40 tool=gauge", ""))
	if at(t, whole, "stop_reason") != "tool_use" || at(t, whole, "content.0.type") != "tool_use" || at(t, whole, "content.0.name") != "gauge" ||
		!strings.HasPrefix(at(t, whole, "content.0.id"), "toolu_") || at(t, whole, "content.0.input.text") != want || at(t, whole, "usage.output_tokens") != "40" {
		t.Errorf("%s", whole)
	}

	parts, names := map[string]string{}, 0
	for _, event := range dataOf(t, s, chatPath, chat("out=40 chunks=8 tool=gauge", `,"stream":true,"n":2`)) {
		if at(t, event, "choices.0.delta.tool_calls.0.function.name") == "gauge" {
			names++
		}
		if part := at(t, event, "choices.0.delta.tool_calls.0.function.arguments"); part != "absent" {
			parts[at(t, event, "choices.0.index")] += part
		}
	}
	if names != 2 || arguments(t, parts["0"])+arguments(t, parts["1"]) == "" || len(arguments(t, parts["0"])) != len(text(40)) {
		t.Errorf("%d names, %q", names, parts)
	}
	input := ""
	for _, event := range dataOf(t, s, messagesPath, message("out=40 chunks=40 tool=gauge", `,"stream":true`)) {
		if at(t, event, "content_block.type") == "tool_use" && at(t, event, "content_block.input") != "map[]" {
			t.Errorf("%s", event)
		}
		if part := at(t, event, "delta.partial_json"); part != "absent" {
			input += part
		}
	}
	if arguments(t, input) != want {
		t.Errorf("%q", input)
	}
	if resp, body := s.whole(chatPath, chat(`tool=a"b`, "")); resp.StatusCode != 400 {
		t.Errorf("%d %s of a name that is none", resp.StatusCode, body)
	}
}

// dataOf lists the data of a stream's events that are JSON.
func dataOf(t *testing.T, s *station, path, body string) (list []string) {
	t.Helper()
	resp, err := s.post(path, body)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	whole, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(string(whole), "\n") {
		if data, ok := strings.CutPrefix(line, "data: "); ok && data != "[DONE]" {
			list = append(list, data)
		}
	}
	return list
}

// TestLeastLimit: neither provider generates nothing.
func TestLeastLimit(t *testing.T) {
	s := newStation(t)
	for limit, want := range map[int]int{-1: 400, 0: 400, 1: 200} {
		body := `{"model":"claude-sonnet-4-5","max_tokens":` + strconv.Itoa(limit) + `,` + prompt("") + `}`
		resp, answer := s.whole(messagesPath, body)
		if resp.StatusCode != want || want == 400 && (at(t, answer, "error.type") != "invalid_request_error" || !strings.HasPrefix(at(t, answer, "error.message"), "max_tokens:")) {
			t.Errorf("%d tokens: %d %s", limit, resp.StatusCode, answer)
		}
	}
}
