package stripefake

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"strings"
)

// object is one object of the API as it goes out: JSON values only, whole
// numbers as int64. References to other objects are their ids until expanded.
type object map[string]any

// objectsJSON has, for each kind of object, every field an account of API
// version 2023-10-16 is shown, with the value of an untouched one.
//
//go:embed objects.json
var objectsJSON []byte

var blank = func() map[string]object {
	d := json.NewDecoder(bytes.NewReader(objectsJSON))
	d.UseNumber()
	var raw map[string]any
	if err := d.Decode(&raw); err != nil {
		panic(fmt.Sprintf("BUG: objects.json: %v", err))
	}
	kinds := map[string]object{}
	for kind, fields := range raw {
		kinds[kind] = clone(fields).(object)
	}
	return kinds
}()

// clone is a deep copy, with maps as objects and numbers as int64.
func clone(v any) any {
	switch v := v.(type) {
	case map[string]any:
		return clone(object(v))
	case object:
		out := make(object, len(v))
		for k, x := range v {
			out[k] = clone(x)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, x := range v {
			out[i] = clone(x)
		}
		return out
	case json.Number:
		n, err := v.Int64()
		if err != nil {
			panic(fmt.Sprintf("BUG: %s is no whole number", v))
		}
		return n
	}
	return v
}

func (o object) copy() object { return clone(o).(object) }

// str is the text at key, "" for null or absent.
func (o object) str(key string) string {
	s, _ := o[key].(string)
	return s
}

// num is the number at key, 0 for null or absent.
func (o object) num(key string) int64 {
	n, _ := o[key].(int64)
	return n
}

func (o object) flag(key string) bool {
	b, _ := o[key].(bool)
	return b
}

// sub is the object at key, nil for null or absent.
func (o object) sub(key string) object {
	s, _ := o[key].(object)
	return s
}

// set writes several fields and returns o.
func (o object) set(fields object) object {
	for k, v := range fields {
		o[k] = v
	}
	return o
}

// prefixes of ids by kind; the live list of what this server has.
var prefixes = map[string]string{
	"customer": "cus", "payment_method": "pm", "checkout.session": "cs_test", "payment_intent": "pi", "setup_intent": "seti",
	"charge": "ch", "refund": "re", "dispute": "dp", "radar.early_fraud_warning": "issfr", "balance_transaction": "txn",
	"event": "evt", "product": "prod", "price": "price", "subscription": "sub", "subscription_item": "si", "invoice": "in",
	"line_item": "il", "item": "li",
}

// create makes an object of the kind with a fresh id and keeps it.
func (s *Server) create(kind string, fields object) object {
	o := s.fresh(kind, fields)
	s.objects[o.str("id")] = o
	s.order[kind] = append(s.order[kind], o)
	return o
}

// fresh makes an object that lives inside another one and is not kept itself.
func (s *Server) fresh(kind string, fields object) object {
	o := blank[kind].copy().set(object{"id": s.newID(prefixes[kind]), "object": kind})
	if kind != "line_item" && kind != "item" {
		o["created"] = s.unix()
	}
	return o.set(fields)
}

const (
	idLetters = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	// idLength is that of Stripe's own ids behind the prefix.
	idLength = 24
)

func (s *Server) newID(prefix string) string {
	var b strings.Builder
	b.WriteString(prefix + "_")
	for range idLength {
		b.WriteByte(idLetters[s.random.IntN(len(idLetters))])
	}
	return b.String()
}

// find is the object of the kind with this id, or Stripe's resource_missing.
func (s *Server) find(kind, id, param string) (object, error) {
	o, ok := s.objects[id]
	if !ok || o.str("object") != kind {
		return nil, &apiError{status: 404, kind: "invalid_request_error", code: "resource_missing", param: param,
			message: fmt.Sprintf("No such %s: '%s'", kind, id)}
	}
	return o, nil
}
