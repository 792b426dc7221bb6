package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

func showRates(ctx context.Context, c *Call) error {
	var answer struct {
		Version, Label string
		From           time.Time `json:"effective_from"`
		Models         map[string]struct{ Cost map[string]string }
		Rules          []row
	}
	printed, err := c.ask(ctx, request{method: http.MethodGet, path: "/rates/current"}, &answer)
	if err != nil || printed {
		return err
	}
	c.Printf("version %s %q, in force since %s\n\n", answer.Version, answer.Label, answer.From.Format(time.RFC3339))
	var lines [][]string
	for _, r := range answer.Rules {
		var selects []string
		for _, name := range []string{"customer", "plan", "model"} {
			if text := r.values[name]; text != "" {
				selects = append(selects, name+" "+text)
			}
		}
		if selects == nil {
			selects = []string{"everything else"}
		}
		multiplier := r.values["multiplier"]
		if r.values["price"] != "" {
			multiplier = "own prices"
		}
		lines = append(lines, []string{strings.Join(selects, ", "), multiplier, r.values["fee"], r.values["budget_per_day"]})
	}
	table(c.Stdout, []string{"RULE", "MULTIPLIER", "FEE", "BUDGET PER DAY"}, lines)
	lines = nil
	for _, name := range slices.Sorted(maps.Keys(answer.Models)) {
		cost := answer.Models[name].Cost
		lines = append(lines, []string{name, cost["input"], cost["cached_input"], cost["output"]})
	}
	c.Printf("\n")
	table(c.Stdout, []string{"COST PER MILLION OF", "INPUT", "CACHED", "OUTPUT"}, lines)
	return nil
}

func showRequest(ctx context.Context, c *Call) error {
	var answer struct{ Data []row }
	query := url.Values{"request_id": {c.Args[0]}}
	printed, err := c.ask(ctx, request{method: http.MethodGet, path: "/events", query: query}, &answer)
	switch {
	case err != nil:
		return err
	case len(answer.Data) == 0:
		return fmt.Errorf("there is no event of request %q (one appears within five seconds of the answer)", c.Args[0])
	case printed:
		return nil
	}
	for i, r := range answer.Data {
		if i > 0 {
			c.Printf("\n")
		}
		list(c.Stdout, r)
	}
	return nil
}

func report(ctx context.Context, c *Call) error {
	if name := c.Args[0]; name != "margin" && name != "usage" && name != "leakage" {
		return Usage(fmt.Errorf("there is no report %q: margin, usage, leakage", name))
	}
	query := url.Values{}
	for _, name := range []string{"by", "from", "to"} {
		if text := c.Flag(name); text != "" {
			query.Set(name, text)
		}
	}
	if c.Flag("net") != "" {
		if c.Args[0] != "margin" {
			return Usage(errors.New("--net is for the margin report"))
		}
		query.Set("net", "true")
	}
	var answer struct {
		Rows    []row
		Totals  row
		FreshTo *string `json:"fresh_to"`
	}
	printed, err := c.ask(ctx, request{method: http.MethodGet, path: "/reports/" + c.Args[0], query: query}, &answer)
	if err != nil || printed {
		return err
	}
	if len(answer.Rows) == 0 {
		c.Printf("nothing in this period\n")
	}
	tableOf(c.Stdout, answer.Rows, answer.Totals)
	if answer.FreshTo != nil {
		c.Printf("fresh to %s\n", *answer.FreshTo)
	}
	return nil
}

// sums is one book's part of a tie-out.
type sums struct {
	Count       json.Number
	Cost, Price string
}

func tieout(ctx context.Context, c *Call) error {
	r := request{method: http.MethodGet, path: "/tieout", query: url.Values{}}
	if text := c.Flag("wait"); text != "" {
		wait, err := time.ParseDuration(text)
		if err != nil || wait < 0 {
			return Usage(fmt.Errorf("--wait: %q is not a duration such as 30s", text))
		}
		r.wait = wait
		r.query.Set("wait", text)
	}
	var answer struct {
		OK             *bool
		Pending        row
		Events, Ledger sums
		ClickHouse     *sums
		Leases         row
		Receivable     string
		Leakage        row
		Breaks         []row
	}
	printed, err := c.ask(ctx, r, &answer)
	switch {
	case err != nil:
		return err
	case answer.OK == nil:
		return errors.New("cannot read weir's answer: it does not say whether the books tie out")
	}
	if !printed {
		lines := [][]string{line("events", &answer.Events), line("ledger", &answer.Ledger), line("clickhouse", answer.ClickHouse)}
		table(c.Stdout, []string{"", "COUNT", "COST", "PRICE"}, lines)
		c.Printf("\n")
		for _, group := range []struct {
			name string
			row  row
		}{{"pending", answer.Pending}, {"leases", answer.Leases}, {"leakage", answer.Leakage}} {
			c.Printf("%-10s", group.name)
			for _, name := range group.row.names {
				c.Printf("  %s %s", name, group.row.values[name])
			}
			c.Printf("\n")
		}
		c.Printf("%-10s  %s\n", "receivable", answer.Receivable)
		if len(answer.Breaks) > 0 {
			c.Printf("\n")
			tableOf(c.Stdout, answer.Breaks, row{})
		}
	}
	if !*answer.OK {
		return fmt.Errorf("%w (%d checks differ)", ErrBroken, len(answer.Breaks))
	}
	if !printed {
		c.Printf("\nthe books tie out\n")
	}
	return nil
}

func line(name string, s *sums) []string {
	if s == nil { // the warehouse is off or away
		return []string{name, "-", "-", "-"}
	}
	return []string{name, s.Count.String(), s.Cost, s.Price}
}
