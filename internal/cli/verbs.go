package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
)

// clientVerb is a verb that speaks to a running weir.
func clientVerb(name, args, does string, run func(context.Context, *Call) error, flags ...Flag) Verb {
	return Verb{Name: name, Args: args, Does: does, Flags: slices.Concat(flags, connection), Run: run}
}

// pageFlags are those of every list.
var pageFlags = []Flag{{"limit", "N", "with --json: rows of the page"}, {"cursor", "CURSOR", "with --json: where the page begins"}}

// Clients are the verbs that speak to a running weir.
func Clients() []Verb {
	verb := clientVerb
	reason := Flag{"reason", "TEXT", "why, for whoever reads the books (needed)"}
	plan := Flag{"plan", "PLAN", "the plan that price rules may name"}
	repeat := Flag{"idempotency-key", "KEY", "names this request: repeated under the same key it takes effect once"}
	kind := Flag{"kind", "paid|promo", "promotional money is used up first"}
	period := []Flag{{"by", "COLUMNS", "customer, model, provider: what to group by"}, {"from", "TIME", "RFC 3339"}, {"to", "TIME", "RFC 3339"}}
	return append([]Verb{
		verb("customer create", "ID", "add a customer and its empty wallet", createCustomer,
			append([]Flag{{"name", "NAME", "for people"}, plan}, limitFlags...)...),
		verb("customer list", "", "list customers", listCustomers, pageFlags...),
		verb("customer update", "ID", "freeze or unfreeze a customer, or change its plan, wallet or limits", updateCustomer,
			slices.Concat([]Flag{{"status", "active|frozen", "a frozen wallet serves no request"}, plan}, walletFlags, limitFlags)...),
		verb("wallet show", "ID", "show a customer's wallet", showWallet),
		verb("wallet credit", "ID AMOUNT", "add money to a wallet", moveMoney("credits"), reason, kind, repeat,
			Flag{"expires", "TIME", "RFC 3339: what is left then is taken back"}, Flag{"priority", "N", "1 to 100: the lower is used up first"}),
		verb("wallet debit", "ID AMOUNT", "take money from a wallet", moveMoney("debits"), reason, kind, repeat),
		verb("key create", "[ID]", "make an API key and print it, once", createKey, append([]Flag{{"name", "NAME", "for people"},
			{"operator", "", "instead of a customer's: a key that names the wallet in each request"},
			{"models", "A,B", "the only models it may use"}, {"expires", "TIME", "RFC 3339"}}, limitFlags...)...),
		verb("key update", "KEYID", "change a key's limits", updateKey, limitFlags...),
		verb("key revoke", "KEYID", "end a key for good", revokeKey),
		verb("rates publish", "FILE", "publish a rate card", publishRates),
		verb("rates show", "", "show the rate card in force", showRates),
		verb("request show", "REQUEST_ID", "show what a request used and cost", showRequest),
		verb("report", "margin|usage|leakage", "report over customers and models", report,
			append(period, Flag{"net", "", "margin: also the fees of the payments that funded it, and what is left"})...),
		verb("tieout", "", "compare events, ledger and warehouse; exit code 3 if they differ", tieout,
			Flag{"wait", "DURATION", "for what is pending, at most so long"}),
		verb("tieout accept", "BATCH", "accept a batch that breaks the tie-out", acceptBatch, reason),
	}, slices.Concat(fundingVerbs(), webhookVerbs())...)
}

func createCustomer(ctx context.Context, c *Call) error {
	body := map[string]any{"id": c.Args[0]}
	for _, name := range []string{"name", "plan"} {
		if text := c.Flag(name); text != "" {
			body[name] = text
		}
	}
	if err := c.addLimits(body); err != nil {
		return err
	}
	printed, err := c.ask(ctx, request{method: http.MethodPost, path: "/customers", body: body}, nil)
	if err == nil && !printed {
		c.Printf("customer %s is created\n", c.Args[0])
	}
	return err
}

func listCustomers(ctx context.Context, c *Call) error {
	var lines [][]string
	printed, err := c.pages(ctx, "/customers", func(r row) {
		lines = append(lines, []string{r.values["id"], r.values["name"], r.values["plan"], r.values["status"], r.values["created_at"]})
	})
	if err == nil && !printed {
		table(c.Stdout, []string{"ID", "NAME", "PLAN", "STATUS", "CREATED"}, lines)
	}
	return err
}

func updateCustomer(ctx context.Context, c *Call) error {
	body := map[string]any{}
	for _, name := range []string{"status", "plan"} {
		if text, given := c.flags[name]; given {
			body[name] = text
		}
	}
	c.addWallet(body)
	if err := c.addLimits(body); err != nil {
		return err
	}
	var answer row
	printed, err := c.ask(ctx, request{method: http.MethodPatch, path: "/customers/" + url.PathEscape(c.Args[0]), body: body}, &answer)
	if err == nil && !printed {
		c.Printf("customer %s is %s, plan %q\n", c.Args[0], answer.values["status"], answer.values["plan"])
	}
	return err
}

func showWallet(ctx context.Context, c *Call) error {
	var answer row
	printed, err := c.ask(ctx, request{method: http.MethodGet, path: "/customers/" + url.PathEscape(c.Args[0]) + "/wallet"}, &answer)
	if err == nil && !printed {
		list(c.Stdout, answer)
	}
	return err
}

func moveMoney(route string) func(context.Context, *Call) error {
	return func(ctx context.Context, c *Call) error {
		if c.Flag("reason") == "" {
			return Usage(errors.New("--reason is needed: say why, for whoever reads the books"))
		}
		body := map[string]any{"amount": c.Args[1], "reason": c.Flag("reason")}
		if kind := c.Flag("kind"); kind != "" {
			body["kind"] = kind
		}
		if at := c.Flag("expires"); at != "" {
			body["expires_at"] = at
		}
		if text := c.Flag("priority"); text != "" {
			n, err := strconv.Atoi(text)
			if err != nil {
				return Usage(fmt.Errorf("--priority: %q is not a whole number", text))
			}
			body["priority"] = n
		}
		once := c.once()
		var answer struct{ Wallet row }
		printed, err := c.ask(ctx, request{method: http.MethodPost, path: "/customers/" + url.PathEscape(c.Args[0]) + "/" + route, body: body, once: once}, &answer)
		if err == nil && !printed {
			c.Printf("%s has %s, %s available\n", c.Args[0], answer.Wallet.values["balance"], answer.Wallet.values["available"])
		}
		return c.told(err, once)
	}
}

// createKey prints the key alone, so that a script can take it.
func createKey(ctx context.Context, c *Call) error {
	operator := c.Flag("operator") != ""
	if operator == (len(c.Args) == 1) {
		return Usage(errors.New("name a customer, or say --operator"))
	}
	path := "/operator-keys"
	if !operator {
		path = "/customers/" + url.PathEscape(c.Args[0]) + "/keys"
	}
	body := map[string]any{}
	if name := c.Flag("name"); name != "" {
		body["name"] = name
	}
	if models := c.Flag("models"); models != "" {
		body["models"] = strings.Split(models, ",")
	}
	if at := c.Flag("expires"); at != "" {
		body["expires_at"] = at
	}
	if err := c.addLimits(body); err != nil {
		return err
	}
	var answer struct{ Key string }
	printed, err := c.ask(ctx, request{method: http.MethodPost, path: path, body: body}, &answer)
	if err == nil && !printed {
		c.Printf("%s\n", answer.Key)
	}
	return err
}

func revokeKey(ctx context.Context, c *Call) error {
	printed, err := c.ask(ctx, request{method: http.MethodDelete, path: "/keys/" + url.PathEscape(c.Args[0])}, nil)
	if err == nil && !printed {
		c.Printf("key %s is revoked\n", c.Args[0])
	}
	return err
}

func publishRates(ctx context.Context, c *Call) error {
	src, err := os.ReadFile(c.Args[0])
	if err != nil {
		return Usage(fmt.Errorf("cannot read the rate card: %w", err))
	}
	var answer struct{ Version string }
	printed, err := c.ask(ctx, request{method: http.MethodPost, path: "/rates", body: src}, &answer)
	var refused *answerError
	switch {
	case errors.As(err, &refused) && refused.Line > 0:
		return fmt.Errorf("%s:%d: %w", c.Args[0], refused.Line, err)
	case err == nil && !printed:
		c.Printf("published as version %s\n", answer.Version)
	}
	return err
}

func acceptBatch(ctx context.Context, c *Call) error {
	if c.Flag("reason") == "" {
		return Usage(errors.New("--reason is needed: say why the batch is right"))
	}
	body := map[string]string{"batch": c.Args[0], "reason": c.Flag("reason")}
	printed, err := c.ask(ctx, request{method: http.MethodPost, path: "/tieout/accept", body: body}, nil)
	if err == nil && !printed {
		c.Printf("batch %s is accepted\n", c.Args[0])
	}
	return err
}
