package cli

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"weir/internal/config"
)

// fundingVerbs are about how money comes into wallets and goes back.
func fundingVerbs() []Verb {
	repeat := Flag{"idempotency-key", "KEY", "names this request: repeated under the same key it takes effect once"}
	pages := []Flag{{"success-url", "URL", "where the customer goes after paying; else top_up_url of the configuration, or a page of weir's own"},
		{"cancel-url", "URL", "where he goes if he does not pay; else the same"}}
	return []Verb{
		clientVerb("wallet checkout", "ID AMOUNT", "print the address of a page where the customer pays", checkout,
			append(pages, Flag{"bonus", "AMOUNT", "promotional credit that comes with it"},
				Flag{"save-card", "", "the customer agrees that his card is charged later, by automatic top-ups"}, repeat)...),
		clientVerb("wallet auto-topup", "ID", "charge the saved card when the balance is low", autoTopup,
			Flag{"threshold", "AMOUNT", "the balance below which"}, Flag{"amount", "AMOUNT", "what to charge, or"},
			Flag{"recharge-to", "AMOUNT", "the balance to reach"}, Flag{"cap-per-day", "AMOUNT", "the most a UTC day"},
			Flag{"cap-per-month", "AMOUNT", "the most a UTC month"}, Flag{"min-interval", "SECONDS", "the least time between two; else 60"}, Flag{"off", "", "turn it off; without flags it is shown"}),
		clientVerb("wallet topups", "ID", "list what a customer paid", listTopups, pageFlags...),
		clientVerb("wallet lots", "ID", "list what a wallet's money consists of, in the order in which it is used", listLots),
		clientVerb("topup refund", "TOPUP [AMOUNT]", "give unspent money of a top-up back; without AMOUNT all that is left", refundTopup,
			Flag{"reason", "TEXT", "why, for whoever reads the books"}, repeat),
		clientVerb("plan set", "ID", "sell a plan by subscription", setPlan, Flag{"price", "PRICE", "Stripe's id of its recurring price (needed)"},
			Flag{"included", "AMOUNT", "the credit of one period (needed)"}),
	}
}

// wallet is the path of a customer's part.
func (c *Call) wallet(route string) string { return "/customers/" + url.PathEscape(c.Args[0]) + route }

// once is a request's Idempotency-Key: the one that was given, or a new one.
func (c *Call) once() string { return cmp.Or(c.Flag("idempotency-key"), rand.Text()) }

// told adds to an error that came instead of an answer how to ask again safely.
func (c *Call) told(err error, once string) error {
	var refused *answerError
	if err == nil || errors.As(err, &refused) || c.Flag("idempotency-key") != "" {
		return err
	}
	return fmt.Errorf("%w (it may have happened: repeat it with --idempotency-key %s)", err, once)
}

// checkout prints the address alone, so that a script can take it.
func checkout(ctx context.Context, c *Call) error {
	back := c.Flag("success-url")
	if back == "" {
		page, err := config.FindTopUpURL(c.Env, c.Flag("config"))
		if err != nil {
			return Usage(err)
		}
		if back = strings.ReplaceAll(page, "{customer}", url.QueryEscape(c.Args[0])); back == "" {
			here, err := c.connect()
			if err != nil {
				return err
			}
			back = here.base + "/thanks"
		}
	}
	body := map[string]any{"amount": c.Args[1], "success_url": back, "cancel_url": cmp.Or(c.Flag("cancel-url"), back)}
	if bonus := c.Flag("bonus"); bonus != "" {
		body["bonus"] = bonus
	}
	if c.Flag("save-card") != "" {
		body["save_card"] = true
	}
	once := c.once()
	var answer struct{ URL string }
	printed, err := c.ask(ctx, request{method: http.MethodPost, path: c.wallet("/checkout"), body: body, once: once}, &answer)
	if err == nil && !printed {
		c.Printf("%s\n", answer.URL)
	}
	return c.told(err, once)
}

func autoTopup(ctx context.Context, c *Call) error {
	body := map[string]any{}
	for _, name := range []string{"threshold", "amount", "recharge-to", "cap-per-day", "cap-per-month"} {
		if text := c.Flag(name); text != "" {
			body[strings.ReplaceAll(name, "-", "_")] = text
		}
	}
	if text := c.Flag("min-interval"); text != "" {
		seconds, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return Usage(fmt.Errorf("--min-interval: %q is not a whole number of seconds", text))
		}
		body["min_interval_seconds"] = seconds
	}
	ask := request{method: http.MethodGet, path: c.wallet("/auto-topup")}
	if off := c.Flag("off") != ""; off || len(body) > 0 {
		body["enabled"] = !off
		ask.method, ask.body = http.MethodPut, body
	}
	var answer row
	printed, err := c.ask(ctx, ask, &answer)
	if err == nil && !printed {
		list(c.Stdout, answer)
	}
	return err
}

func listTopups(ctx context.Context, c *Call) error {
	var rows []row
	printed, err := c.pages(ctx, c.wallet("/topups"), func(r row) {
		r.names = []string{"id", "kind", "state", "reason", "amount", "bonus", "refunded", "fee", "created_at"}
		rows = append(rows, r)
	})
	if err == nil && !printed {
		tableOf(c.Stdout, rows, row{})
	}
	return err
}

func listLots(ctx context.Context, c *Call) error {
	var answer struct{ Data []row }
	printed, err := c.ask(ctx, request{method: http.MethodGet, path: c.wallet("/lots")}, &answer)
	if err == nil && !printed {
		tableOf(c.Stdout, answer.Data, row{})
	}
	return err
}

func refundTopup(ctx context.Context, c *Call) error {
	body := map[string]any{}
	if len(c.Args) > 1 {
		body["amount"] = c.Args[1]
	}
	if reason := c.Flag("reason"); reason != "" {
		body["reason"] = reason
	}
	once := c.once()
	var answer row
	printed, err := c.ask(ctx, request{method: http.MethodPost, path: "/topups/" + url.PathEscape(c.Args[0]) + "/refund", body: body, once: once}, &answer)
	if err == nil && !printed {
		c.Printf("%s of %s is on its way back as %s\n", answer.values["amount"], c.Args[0], answer.values["refund_id"])
	}
	return c.told(err, once)
}

func setPlan(ctx context.Context, c *Call) error {
	if c.Flag("price") == "" || c.Flag("included") == "" {
		return Usage(errors.New("--price and --included are needed"))
	}
	body := map[string]string{"stripe_price": c.Flag("price"), "included_credit": c.Flag("included")}
	printed, err := c.ask(ctx, request{method: http.MethodPut, path: "/plans/" + url.PathEscape(c.Args[0]), body: body}, nil)
	if err == nil && !printed {
		c.Printf("plan %s includes %s a period\n", c.Args[0], c.Flag("included"))
	}
	return err
}
