// Package strictjson reads a JSON object so that no two readers of one body can
// see two things in it.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"unicode/utf8"
)

// nestingMax bounds the depth of a body; only metadata and meters nest.
const nestingMax = 16

// Decode reads one JSON object into the struct to points at. The standard
// decoder alone would take "ID" for "id", the last of two equal keys, and any
// bytes as text, each of which lets two readers of one body see two things.
// An empty body is {}.
func Decode(body []byte, to any) error { return decode(body, to, false) }

// DecodeOpen is Decode for formats that allow members which the struct does
// not have: they are checked as the others are, and skipped.
func DecodeOpen(body []byte, to any) error { return decode(body, to, true) }

func decode(body []byte, to any, open bool) error {
	if len(bytes.TrimSpace(body)) == 0 {
		body = []byte("{}")
	}
	if !utf8.Valid(body) {
		return errors.New("the body is not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	if token, err := dec.Token(); err != nil || token != json.Delim('{') {
		return errors.New("the body is not a JSON object")
	}
	if err := checkObject(dec, "", shape{fieldsOf(to), open}, 1); err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("there is something after the JSON object")
	}
	if err := json.Unmarshal(body, to); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) && wrong.Field != "" {
			return fmt.Errorf("%s: a %s does not belong there", wrong.Field, wrong.Value)
		}
		return fmt.Errorf("the body cannot be read: %s", err)
	}
	return nil
}

// shape is what an object may have: fields, and others too if it is open.
type shape struct {
	fields []string
	open   bool
}

// anything is the shape of what lies inside a field.
var anything = shape{open: true}

// refuses says what is wrong with a key. One that differs from a field in case
// alone would be taken for it by the standard decoder.
func (s shape) refuses(key string) string {
	for _, f := range s.fields {
		if key == f {
			return ""
		}
		if strings.EqualFold(key, f) {
			return fmt.Sprintf("unknown field %q: write it %q", key, f)
		}
	}
	if s.open {
		return ""
	}
	return fmt.Sprintf("unknown field %q (known: %s)", key, strings.Join(s.fields, ", "))
}

func fieldsOf(to any) []string {
	t := reflect.TypeOf(to).Elem()
	fields := make([]string, t.NumField())
	for i := range fields {
		fields[i], _, _ = strings.Cut(t.Field(i).Tag.Get("json"), ",")
	}
	return fields
}

// checkObject reads the rest of an object.
func checkObject(dec *json.Decoder, at string, of shape, depth int) error {
	seen := map[string]bool{}
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return fmt.Errorf("the body is not JSON: %s", err)
		}
		key := token.(string)
		if seen[key] {
			return fmt.Errorf("field %q is there twice", at+key)
		}
		if why := of.refuses(key); why != "" {
			return errors.New(why)
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
		return fmt.Errorf("the body is not JSON: %s", err)
	case depth > nestingMax:
		return fmt.Errorf("%s is nested too deep", at)
	case token == json.Delim('{'):
		return checkObject(dec, at+".", anything, depth+1)
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
		return fmt.Errorf("the body is not JSON: %s", err)
	}
	return nil
}
