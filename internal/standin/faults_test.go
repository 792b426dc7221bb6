package standin

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestStreamFaults(t *testing.T) {
	s := newStation(t)
	for _, c := range []struct {
		name   string
		whole  bool // the HTTP answer ends well
		deltas int
		ends   string // in the last event
	}{
		{"break-stream after=3", false, 3, "chat.completion.chunk"},
		{"no-terminator after=4", true, 4, "chat.completion.chunk"},
		{"error-event after=2", true, 2, "server_error"},
		{"stall stall=20ms after=2", true, 10, "[DONE]"},
		{"no-usage", true, 10, "[DONE]"},
		{"garbage", true, 0, "{not what the API promises"},
	} {
		resp, err := s.post(chatPath, chat("in=300 out=50 chunks=10 fault="+c.name, `,"stream":true,"stream_options":{"include_usage":true}`))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if (err == nil) != c.whole {
			t.Errorf("%s: reading ended with %v", c.name, err)
		}
		data, _ := events(string(body))
		if !strings.Contains(data[len(data)-1], c.ends) {
			t.Errorf("%s: last event %s", c.name, data[len(data)-1])
		}
		if c.name == "no-usage" && strings.Contains(string(body), "prompt_tokens") {
			t.Error("usage in spite of no-usage")
		}
		if got := strings.Count(string(body), `"delta":{"content"`); got != c.deltas {
			t.Errorf("%s: %d deltas arrived, want %d", c.name, got, c.deltas)
		}
		name, _, _ := strings.Cut(c.name, " ")
		line := s.last()
		if line.Outcome != "fault:"+name || line.DeltasSent != c.deltas || line.Meters.Output != 5*c.deltas {
			t.Errorf("%s: logged %+v", c.name, line)
		}
	}
}

func TestAnswerFaults(t *testing.T) {
	s := newStation(t)
	resp, err := s.post(messagesPath, message("fault=break-body out=100", ""))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(resp.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("break-body ended with %v", err)
	}
	resp.Body.Close()
	if line := s.last(); line.Outcome != "fault:break-body" || line.Meters.Output != 100 {
		t.Errorf("logged %+v", line)
	}

	resp, err = s.post(messagesPath, message("fault=break-headers", ""))
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(resp.Body); err == nil || len(body) > 0 {
		t.Errorf("break-headers gave %q, %v", body, err)
	}
	resp.Body.Close()

	if resp, err := s.post(messagesPath, message("fault=refuse", "")); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("refuse gave %v, %v", resp, err)
	}
	if line := s.last(); line.Outcome != "fault:refuse" || line.Meters != (Meters{}) {
		t.Errorf("logged %+v", line)
	}
	if _, body := s.whole(messagesPath, message("fault=garbage", "")); json.Valid([]byte(body)) {
		t.Errorf("garbage is JSON: %s", body)
	}
	if _, body := s.whole(messagesPath, message("fault=no-usage", "")); at(t, body, "usage") != "absent" {
		t.Errorf("no-usage: %s", body)
	}
	if _, body := s.whole(messagesPath, message("fault=stall stall=10ms", "")); at(t, body, "type") != "message" {
		t.Errorf("stall: %s", body)
	}
}

// A caller that leaves is logged with what it was sent, in a stream, in a silence and before
// any byte.
func TestCallerLeaves(t *testing.T) {
	s := newStation(t)
	for _, c := range []struct {
		marker, outcome string
		leaveAfter      string // text to read first; "" = leave without an answer
	}{
		{"out=100 chunks=100 interval=5ms", OutcomeClientGone, `"content":"the`},
		{"fault=stall out=10 chunks=10 after=1", OutcomeClientGone, `"content":"the`},
		{"delay=1m", OutcomeClientGone, ""},
		{"fault=timeout", "fault:timeout", ""},
	} {
		client := &http.Client{}
		if c.leaveAfter == "" {
			client.Timeout = 50 * time.Millisecond
		}
		s.sent++
		r, _ := http.NewRequest(http.MethodPost, s.url+chatPath, strings.NewReader(chat(c.marker, `,"stream":true`)))
		r.Header.Set("Authorization", "Bearer "+testKey)
		resp, err := client.Do(r)
		if c.leaveAfter != "" {
			if err != nil {
				t.Fatal(err)
			}
			for scanner := bufio.NewScanner(resp.Body); scanner.Scan() && !strings.Contains(scanner.Text(), c.leaveAfter); {
			}
			resp.Body.Close()
		}
		line := s.last()
		if line.Outcome != c.outcome || line.DeltasSent >= 100 || line.Meters.Input == 0 || (c.leaveAfter == "") != (line.DeltasSent == 0) {
			t.Errorf("%s: logged %+v", c.marker, line)
		}
	}
}
