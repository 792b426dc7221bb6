package strictjson

import (
	"strings"
	"testing"
)

type order struct {
	ID   string         `json:"id"`
	Tags map[string]any `json:"tags,omitempty"`
}

func TestDecode(t *testing.T) {
	for body, wants := range map[string]string{
		`{"id":"a","tags":{"x":[1,{"y":null}]}}`: "",
		``:                                       "",
		`{"ID":"a"}`:                             "write it",
		`{"id":"a","id":"b"}`:                    "twice",
		`{"id":"a","\u0069d":"b"}`:               "twice",
		`{"id":"a","tags":{"x":1,"x":2}}`:        "tags.x",
		`{"id":"a","more":1}`:                    "known: id, tags",
		`{"id":"a"}{}`:                           "after",
		`[{"id":"a"}]`:                           "not a JSON object",
		`{"id":1}`:                               "id: a number",
		"{\"id\":\"\xff\"}":                      "UTF-8",
		`{"tags":` + strings.Repeat("[", 20) + strings.Repeat("]", 20):             "",
		`{"tags":{"x":` + strings.Repeat("[", 20) + strings.Repeat("]", 20) + `}}`: "too deep",
	} {
		var got order
		err := Decode([]byte(body), &got)
		switch {
		case wants == "" && strings.HasPrefix(body, `{"tags":[`):
			if err == nil {
				t.Errorf("%.40s: an unclosed object was taken", body)
			}
		case wants == "" && err != nil, wants != "" && (err == nil || !strings.Contains(err.Error(), wants)):
			t.Errorf("%.60s: %v, want %q", body, err, wants)
		}
	}
}

func TestDecodeOpen(t *testing.T) {
	var got order
	if err := DecodeOpen([]byte(`{"id":"a","extension":{"deep":1}}`), &got); err != nil || got.ID != "a" {
		t.Fatal(got, err)
	}
	for _, body := range []string{`{"Id":"a"}`, `{"x":1,"x":2}`} {
		if DecodeOpen([]byte(body), &got) == nil {
			t.Errorf("%s was taken", body)
		}
	}
}
