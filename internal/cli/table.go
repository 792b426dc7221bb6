package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// row is a JSON object whose members keep their order, so that tables have the
// columns of the API in the API's order.
type row struct {
	names  []string
	values map[string]string
}

// UnmarshalJSON reads an object; members that are no plain values keep their
// JSON text, null is "-".
func (r *row) UnmarshalJSON(b []byte) error {
	r.names, r.values = nil, map[string]string{}
	dec := json.NewDecoder(bytes.NewReader(b))
	if token, err := dec.Token(); err != nil || token != json.Delim('{') {
		return fmt.Errorf("%.40s is not an object", b)
	}
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return err
		}
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return err
		}
		name := token.(string)
		r.names = append(r.names, name)
		r.values[name] = cell(raw)
	}
	return nil
}

func cell(raw json.RawMessage) string {
	var text string
	switch {
	case string(raw) == "null":
		return "-"
	case raw[0] == '"' && json.Unmarshal(raw, &text) == nil:
		return text
	}
	return string(raw)
}

// table prints aligned columns, figures to the right. Text of customers comes
// through here, so what could steer a terminal is shown as ?.
func table(w io.Writer, heads []string, lines [][]string) {
	widths, right := make([]int, len(heads)), make([]bool, len(heads))
	for i, head := range heads {
		widths[i] = utf8.RuneCountInString(head)
		right[i] = len(lines) > 0
		for _, line := range lines {
			line[i] = harmless(line[i])
			widths[i] = max(widths[i], utf8.RuneCountInString(line[i]))
			right[i] = right[i] && isFigure(line[i])
		}
	}
	for _, line := range append([][]string{heads}, lines...) {
		var out strings.Builder
		for i, text := range line {
			gap := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(text))
			if right[i] {
				text, gap = gap+text, ""
			}
			out.WriteString(text + gap + "  ")
		}
		fmt.Fprintln(w, strings.TrimRight(out.String(), " "))
	}
}

// list prints one object as lines of name and value.
func list(w io.Writer, r row) {
	width := 0
	for _, name := range r.names {
		width = max(width, len(name))
	}
	for _, name := range r.names {
		fmt.Fprintf(w, "%-*s  %s\n", width, name, harmless(r.values[name]))
	}
}

// tableOf prints rows with the columns of the first one, and totals under them.
func tableOf(w io.Writer, rows []row, totals row) {
	if len(rows) == 0 {
		return
	}
	var lines [][]string
	for _, r := range rows {
		line := make([]string, len(rows[0].names))
		for i, name := range rows[0].names {
			line[i] = r.values[name]
		}
		lines = append(lines, line)
	}
	heads := make([]string, len(rows[0].names))
	for i, name := range rows[0].names {
		heads[i] = strings.ToUpper(strings.ReplaceAll(name, "_", " "))
	}
	if totals.names != nil {
		line := make([]string, len(heads))
		for i, name := range rows[0].names {
			line[i] = totals.values[name]
		}
		if line[0] == "" {
			line[0] = "total"
		}
		lines = append(lines, line)
	}
	table(w, heads, lines)
}

func isFigure(s string) bool {
	return s == "" || s == "-" || strings.Trim(s, "-.0123456789") == ""
}

func harmless(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}
