package provider

import "strconv"

// splice replaces a stretch of the body, of length 0 where something is put in.
type splice struct {
	span
	text []byte
}

// Rewrite appends to dst the body that goes upstream: body, which Scan has read
// into s, with a wish for usage in its stream if askUsage, and with limitField
// set to limit if the client left the limit out and limit > 0. Where neither
// applies, and everywhere else, not a byte changes, and no key is there twice.
func (s *Scan) Rewrite(dst, body []byte, limitField string, limit int64, askUsage bool) []byte {
	var space [2]splice
	edits := space[:0]
	if askUsage && s.Stream && s.canAsk && !s.UsageAsked {
		s.asked = true
		edits = append(edits, s.usageEdit(body))
	}
	if limit > 0 && !s.HasLimit {
		edits = append(edits, s.limitEdit(limitField, limit))
	}
	if len(edits) == 2 && edits[1].from < edits[0].from {
		edits[0], edits[1] = edits[1], edits[0]
	}
	done := 0
	for _, e := range edits {
		dst = append(append(dst, body[done:e.from]...), e.text...)
		done = e.to
	}
	return append(dst, body[done:]...)
}

// usageEdit asks for usage: over a wish that says no, inside stream options
// without a wish, over options that are null, or in options of our own.
func (s *Scan) usageEdit(body []byte) splice {
	switch {
	case s.wish.to > 0:
		return splice{s.wish, []byte(`true`)}
	case s.optionsTop > 0:
		c := cursor{b: body, at: s.optionsTop}
		if c.next() == '}' {
			return splice{span{s.optionsTop, s.optionsTop}, []byte(`"include_usage":true`)}
		}
		return splice{span{s.optionsTop, s.optionsTop}, []byte(`"include_usage":true,`)}
	case s.options.to > 0:
		return splice{s.options, []byte(`{"include_usage":true}`)}
	}
	return splice{span{s.top, s.top}, []byte(`"stream_options":{"include_usage":true},`)}
}

// limitEdit sets the limit: over a null of that name, or as the first member.
// The object is never empty, for it names a model.
func (s *Scan) limitEdit(field string, limit int64) splice {
	for _, n := range s.nulls[:s.nullCount] {
		if n.name == field {
			return splice{n.value, strconv.AppendInt(nil, limit, 10)}
		}
	}
	text := append(strconv.AppendQuote(nil, field), ':')
	text = append(strconv.AppendInt(text, limit, 10), ',')
	return splice{span{s.top, s.top}, text}
}
