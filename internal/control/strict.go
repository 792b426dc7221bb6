package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"
)

// nestingMax bounds the depth of a body; metadata is the only part that nests.
const nestingMax = 16

// readBody reads at most limit bytes of a body.
func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, refuse(http.StatusRequestEntityTooLarge, "body_too_large", "the body is larger than %d bytes", limit)
	case err != nil:
		return nil, invalid("the body ends early")
	}
	return body, nil
}

// decode reads one JSON object into the struct to points at. The standard
// decoder alone would take "ID" for "id", the last of two equal keys, and any
// bytes as text, each of which lets two readers of one body see two things.
// An empty body is {}.
func decode(body []byte, to any) error {
	if len(bytes.TrimSpace(body)) == 0 {
		body = []byte("{}")
	}
	if !utf8.Valid(body) {
		return invalid("the body is not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	if token, err := dec.Token(); err != nil || token != json.Delim('{') {
		return invalid("the body is not a JSON object")
	}
	if err := checkObject(dec, "", fieldsOf(to), 1); err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return invalid("there is something after the JSON object")
	}
	if err := json.Unmarshal(body, to); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) && wrong.Field != "" {
			return invalid("%s: a %s does not belong there", wrong.Field, wrong.Value)
		}
		return invalid("the body cannot be read: %s", err)
	}
	return nil
}

func fieldsOf(to any) []string {
	t := reflect.TypeOf(to).Elem()
	fields := make([]string, t.NumField())
	for i := range fields {
		fields[i], _, _ = strings.Cut(t.Field(i).Tag.Get("json"), ",")
	}
	return fields
}

// checkObject reads the rest of an object. known are its only keys; nil allows
// any.
func checkObject(dec *json.Decoder, at string, known []string, depth int) error {
	seen := map[string]bool{}
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return invalid("the body is not JSON: %s", err)
		}
		key := token.(string)
		switch {
		case seen[key]:
			return invalid("field %q is there twice", at+key)
		case known != nil && !slices.Contains(known, key):
			return invalid("unknown field %q (known: %s)", at+key, strings.Join(known, ", "))
		}
		seen[key] = true
		if err := checkValue(dec, at+key, depth); err != nil {
			return err
		}
	}
	return closing(dec)
}

func checkValue(dec *json.Decoder, at string, depth int) error {
	token, err := dec.Token()
	switch {
	case err != nil:
		return invalid("the body is not JSON: %s", err)
	case depth > nestingMax:
		return invalid("%s is nested too deep", at)
	case token == json.Delim('{'):
		return checkObject(dec, at+".", nil, depth+1)
	case token == json.Delim('['):
		for dec.More() {
			if err := checkValue(dec, at, depth+1); err != nil {
				return err
			}
		}
		return closing(dec)
	}
	return nil
}

func closing(dec *json.Decoder) error {
	if _, err := dec.Token(); err != nil {
		return invalid("the body is not JSON: %s", err)
	}
	return nil
}
