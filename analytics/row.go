package analytics

import (
	"bytes"
	"encoding/json"
)

// row is a JSON object whose members keep their order: dimensions first.
type row []member

type member struct {
	name  string
	value any
}

// rawJSON is a number that is already written.
type rawJSON string

// MarshalJSON writes the text as it is.
func (r rawJSON) MarshalJSON() ([]byte, error) { return []byte(r), nil }

// MarshalJSON writes the members in order.
func (r row) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, m := range r {
		if i > 0 {
			b.WriteByte(',')
		}
		name, err := json.Marshal(m.name)
		if err != nil {
			return nil, err
		}
		value, err := json.Marshal(m.value)
		if err != nil {
			return nil, err
		}
		b.Write(name)
		b.WriteByte(':')
		b.Write(value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}
