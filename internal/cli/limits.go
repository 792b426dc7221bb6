package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// noLimit is the value of a limit's flag that removes the limit.
const noLimit = "none"

// limitFlags are the limits of a key or a customer.
var limitFlags = []Flag{
	{"rpm", "N", "requests a minute, or " + noLimit},
	{"tpm", "N", "tokens a minute, or " + noLimit},
	{"spend-per-day", "AMOUNT", "dollars a UTC day, or " + noLimit},
	{"spend-per-month", "AMOUNT", "dollars a UTC month, or " + noLimit},
}

// walletFlags are what can be set of a customer's wallet.
var walletFlags = []Flag{
	{"overdraft", "AMOUNT", "what its balance may go below zero by, or " + noLimit},
	{"low-balance", "A,B", "up to five balances below which the platform is told, or " + noLimit},
}

// addWallet puts what walletFlags name into a body.
func (c *Call) addWallet(body map[string]any) {
	if text, given := c.flags["overdraft"]; given {
		if body["overdraft"] = text; text == noLimit {
			body["overdraft"] = nil
		}
	}
	if text, given := c.flags["low-balance"]; given {
		if body["low_balance"] = strings.Split(text, ","); text == noLimit {
			body["low_balance"] = nil
		}
	}
}

// addLimits puts the limits that flags name into a body.
func (c *Call) addLimits(body map[string]any) error {
	limits := map[string]any{}
	for flag, member := range map[string]string{"rpm": "requests_per_minute", "tpm": "tokens_per_minute",
		"spend-per-day": "spend_per_day", "spend-per-month": "spend_per_month"} {
		text, given := c.flags[flag]
		switch {
		case !given:
		case text == noLimit:
			limits[member] = nil
		case flag == "rpm" || flag == "tpm":
			n, err := strconv.ParseInt(text, 10, 64)
			if err != nil {
				return Usage(fmt.Errorf("--%s: %q is neither a whole number nor %s", flag, text, noLimit))
			}
			limits[member] = n
		default:
			limits[member] = text
		}
	}
	if len(limits) > 0 {
		body["limits"] = limits
	}
	return nil
}

func updateKey(ctx context.Context, c *Call) error {
	body := map[string]any{}
	if err := c.addLimits(body); err != nil {
		return err
	}
	if len(body) == 0 {
		return Usage(errors.New("name a limit to change: --rpm, --tpm, --spend-per-day or --spend-per-month"))
	}
	var answer row
	printed, err := c.ask(ctx, request{method: http.MethodPatch, path: "/keys/" + url.PathEscape(c.Args[0]), body: body}, &answer)
	if err == nil && !printed {
		c.Printf("key %s has the limits %s\n", c.Args[0], answer.values["limits"])
	}
	return err
}
