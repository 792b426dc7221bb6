package cli

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
)

// webhookVerbs are about the endpoints that are told of events.
func webhookVerbs() []Verb {
	return []Verb{
		clientVerb("webhook create", "URL", "have events sent to a URL, and print the secret they are signed with, once", createWebhook,
			Flag{"events", "A,B", "the only types it wants, such as wallet.low_balance"}),
		clientVerb("webhook list", "", "list webhooks and how their last delivery went", listWebhooks, pageFlags...),
		clientVerb("webhook delete", "ID", "send nothing more to a webhook", deleteWebhook),
		clientVerb("webhook deliveries", "ID", "list what a webhook is sent", listDeliveries, pageFlags...),
		clientVerb("webhook replay", "ID", "send the events of a time span again", replayWebhook, Flag{"from", "TIME", "RFC 3339 (needed)"},
			Flag{"to", "TIME", "RFC 3339; else up to now"}, Flag{"event", "TYPE", "the only type to send"}),
		clientVerb("webhook test", "ID", "send a webhook an event of type webhook.test", testWebhook),
	}
}

// webhook is the path of what the first argument names.
func (c *Call) webhook(route string) string { return "/webhooks/" + url.PathEscape(c.Args[0]) + route }

func createWebhook(ctx context.Context, c *Call) error {
	body := map[string]any{"url": c.Args[0]}
	if events := c.Flag("events"); events != "" {
		body["events"] = strings.Split(events, ",")
	}
	var answer row
	printed, err := c.ask(ctx, request{method: http.MethodPost, path: "/webhooks", body: body}, &answer)
	if err == nil && !printed {
		answer.names = []string{"id", "secret"}
		list(c.Stdout, answer)
	}
	return err
}

func listWebhooks(ctx context.Context, c *Call) error {
	var lines [][]string
	printed, err := c.pages(ctx, "/webhooks", func(r row) {
		var last row
		if json.Unmarshal([]byte(r.values["last_delivery"]), &last) != nil {
			last.values = map[string]string{"state": "-"} // nothing was to be sent yet
		}
		var events []string
		if json.Unmarshal([]byte(r.values["events"]), &events) != nil || len(events) == 0 {
			events = []string{"all"}
		}
		lines = append(lines, []string{r.values["id"], r.values["url"], strings.Join(events, ","), r.values["disabled_at"],
			last.values["state"], last.values["last_status"], last.values["last_error"]})
	})
	if err == nil && !printed {
		table(c.Stdout, []string{"ID", "URL", "EVENTS", "DISABLED", "LAST DELIVERY", "STATUS", "ERROR"}, lines)
	}
	return err
}

func deleteWebhook(ctx context.Context, c *Call) error {
	printed, err := c.ask(ctx, request{method: http.MethodDelete, path: c.webhook("")}, nil)
	if err == nil && !printed {
		c.Printf("webhook %s is deleted\n", c.Args[0])
	}
	return err
}

func listDeliveries(ctx context.Context, c *Call) error {
	names := []string{"event", "type", "customer", "created_at", "state", "tries", "next_try_at", "last_status", "last_error"}
	var lines [][]string
	printed, err := c.pages(ctx, c.webhook("/deliveries"), func(r row) {
		var line []string
		for _, name := range names {
			line = append(line, r.values[name])
		}
		lines = append(lines, line)
	})
	if err == nil && !printed {
		table(c.Stdout, []string{"EVENT", "TYPE", "CUSTOMER", "CREATED", "STATE", "TRIES", "NEXT TRY", "STATUS", "ERROR"}, lines)
	}
	return err
}

func replayWebhook(ctx context.Context, c *Call) error {
	if c.Flag("from") == "" {
		return Usage(errors.New("--from is needed: say since when, such as 2026-11-24T00:00:00Z"))
	}
	body := map[string]string{"from": c.Flag("from")}
	for _, name := range []string{"to", "event"} {
		if text := c.Flag(name); text != "" {
			body[name] = text
		}
	}
	var answer row
	printed, err := c.ask(ctx, request{method: http.MethodPost, path: c.webhook("/replay"), body: body}, &answer)
	if err == nil && !printed {
		c.Printf("%s events are sent again\n", answer.values["queued"])
	}
	return err
}

func testWebhook(ctx context.Context, c *Call) error {
	var answer row
	printed, err := c.ask(ctx, request{method: http.MethodPost, path: c.webhook("/test")}, &answer)
	if err == nil && !printed {
		c.Printf("event %s is on its way; weir webhook deliveries %s tells how it went\n", answer.values["event"], c.Args[0])
	}
	return err
}
