package stripefake

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	pageDefault = 10
	pageMax     = 100
)

// wholeList is a list that shows all it has.
func wholeList(items []object, url string) object {
	data := make([]any, len(items))
	for i, o := range items {
		data[i] = o.copy()
	}
	return object{"object": "list", "data": data, "has_more": false, "url": url}
}

// page lists the chosen ones of all (oldest first) as Stripe does: newest
// first, from a cursor on, with the created range of the request.
func (s *Server) page(c *call, all []object, chosen func(object) bool) (object, error) {
	limit := c.num("limit", pageDefault)
	if limit < 1 || limit > pageMax {
		return nil, invalid("parameter_invalid_integer", "limit", "Invalid limit: must be between 1 and %d.", pageMax)
	}
	after, before := c.str("starting_after"), c.str("ending_before")
	if after != "" && before != "" {
		return nil, invalid("", "", "Only one of starting_after and ending_before can be given.")
	}
	for name, id := range map[string]string{"starting_after": after, "ending_before": before} {
		if !slices.ContainsFunc(all, func(o object) bool { return o.str("id") == id }) && id != "" {
			return nil, &apiError{status: 400, kind: "invalid_request_error", code: "resource_missing", param: name, message: "No such object: '" + id + "'"}
		}
	}
	var found []object
	seen := after == ""
	for _, o := range slices.Backward(all) {
		if o.str("id") == before {
			break
		}
		if seen && inRange(o.num("created"), c.params) && chosen(o) {
			found = append(found, o)
		}
		seen = seen || o.str("id") == after
	}
	more := int64(len(found)) > limit
	if more && before != "" { // the page that ends at the cursor, not the newest one
		found = found[int64(len(found))-limit:]
	} else if more {
		found = found[:limit]
	}
	return wholeList(found, c.path).set(object{"has_more": more}), nil
}

// inRange checks created against the request's exact value or bounds.
func inRange(created int64, p params) bool {
	return created >= p.num("created.gte", created) && created <= p.num("created.lte", created) &&
		created > p.num("created.gt", created-1) && created < p.num("created.lt", created+1) && created == p.num("created", created)
}

// term is one condition of a search.
type term struct{ field, operator, value string }

// operators of Stripe's search language that this server knows, longest first.
var operators = []string{">=", "<=", ":", ">", "<"}

// parseQuery reads conditions joined by AND, as in
// metadata['order']:'17' AND status:'succeeded'.
func parseQuery(query string) ([]term, error) {
	var out []term
	for _, part := range strings.Split(query, " AND ") {
		part = strings.TrimSpace(part)
		var t term
		if rest, isMetadata := strings.CutPrefix(part, "metadata["); isMetadata {
			key, behind, ok := strings.Cut(rest, "]")
			if !ok {
				return nil, badQuery(query)
			}
			t.field, part = "metadata."+strings.Trim(key, `'"`), behind
		}
		at, operator := len(part), ""
		for _, op := range operators {
			if i := strings.Index(part, op); i >= 0 && i < at {
				at, operator = i, op
			}
		}
		if operator == "" {
			return nil, badQuery(query)
		}
		if t.field == "" {
			t.field = strings.TrimSpace(part[:at])
		}
		t.operator, t.value = operator, strings.Trim(strings.TrimSpace(part[at+len(operator):]), `'"`)
		if t.field == "" || t.value == "" {
			return nil, badQuery(query)
		}
		out = append(out, t)
	}
	return out, nil
}

func badQuery(query string) error {
	return invalid("", "query", "We were unable to parse your search query: %s", query)
}

// holds checks the condition on o.
func (t term) holds(o object) bool {
	if key, isMetadata := strings.CutPrefix(t.field, "metadata."); isMetadata {
		return t.operator == ":" && o.sub("metadata").str(key) == t.value
	}
	n, isNumber := o[t.field].(int64)
	if !isNumber {
		return t.operator == ":" && o.str(t.field) == t.value
	}
	want, err := strconv.ParseInt(t.value, 10, 64)
	if err != nil {
		return false
	}
	return map[string]bool{":": n == want, ">": n > want, "<": n < want, ">=": n >= want, "<=": n <= want}[t.operator]
}

// searchFields may be asked for of each kind, beside metadata.
var searchFields = map[string][]string{
	"payment_intent": {"amount", "created", "currency", "customer", "status"},
	"customer":       {"created", "email", "name", "phone"},
}

// search finds what the query asks for, newest first, as far as the index has
// come: objects younger than SearchLag are not in it. The page is an offset.
func (s *Server) search(c *call, kind string) (object, error) {
	terms, err := parseQuery(c.str("query"))
	if err != nil {
		return nil, err
	}
	for _, t := range terms {
		if !strings.HasPrefix(t.field, "metadata.") && !slices.Contains(searchFields[kind], t.field) {
			return nil, invalid("", "query", "Field `%s` is an unsupported search field for resource `%ss`.", t.field, kind)
		}
	}
	indexed := s.now().Add(-s.options.SearchLag)
	var found []object
	for _, o := range slices.Backward(s.order[kind]) {
		misses := func(t term) bool { return !t.holds(o) }
		if !time.Unix(o.num("created"), 0).After(indexed) && !slices.ContainsFunc(terms, misses) {
			found = append(found, o)
		}
	}
	limit := c.num("limit", pageDefault)
	if limit < 1 || limit > pageMax {
		return nil, invalid("parameter_invalid_integer", "limit", "Invalid limit: must be between 1 and %d.", pageMax)
	}
	total := len(found)
	from, err := strconv.Atoi("0" + strings.TrimPrefix(c.str("page"), "page_"))
	if err != nil || from > total {
		return nil, invalid("", "page", "Invalid page.")
	}
	found = found[from:]
	out := wholeList(found[:min(int64(len(found)), limit)], c.path).set(object{"object": "search_result", "next_page": nil})
	if int64(len(found)) > limit {
		out.set(object{"has_more": true, "next_page": fmt.Sprintf("page_%d", int64(from)+limit)})
	}
	return out, nil
}
