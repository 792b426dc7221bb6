package main

import (
	"cmp"
	"context"
	"errors"
	"log/slog"

	"weir/internal/app"
	"weir/internal/cards"
	"weir/internal/cli"
	"weir/internal/config"
)

var (
	configFlag = cli.Flag{Name: "config", Value: "FILE", Does: "the configuration; ./" + config.DefaultFile + " if there is one"}
	roleFlag   = cli.Flag{Name: "role", Value: "all|gateway|processor|analytics", Does: "which part of weir this process is"}
)

// local are the verbs that need no running weir.
func local() []cli.Verb {
	return []cli.Verb{
		{Name: "config check", Does: "print the effective configuration, secrets redacted", Settings: true,
			Flags: []cli.Flag{configFlag, roleFlag}, Run: checkConfig},
		{Name: "migrate", Does: "bring ledger, usage topic and warehouse up to this program; may be repeated", Settings: true,
			Flags: []cli.Flag{configFlag}, Run: migrate},
	}
}

// configuration loads and checks what a call says, for its role.
func configuration(c *cli.Call) (config.Config, error) {
	loaded, err := config.Load(c.Settings, c.Env, c.Flag("config"))
	if err == nil {
		err = loaded.CheckRole(cmp.Or(c.Flag("role"), config.RoleAll))
	}
	return loaded, cli.Usage(err)
}

// checkConfig also reads the rate cards, which a start would publish.
func checkConfig(_ context.Context, c *cli.Call) error {
	loaded, err := configuration(c)
	if err != nil {
		return err
	}
	if _, err := cards.Compose(loaded.Rates); err != nil {
		return cli.Usage(err)
	}
	text, err := loaded.Redacted()
	if err == nil {
		_, err = c.Stdout.Write(text)
	}
	return err
}

func migrate(ctx context.Context, c *cli.Call) error {
	loaded, err := configuration(c)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewJSONHandler(c.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	err = app.Migrate(ctx, loaded, log, func(line string) { c.Printf("%s\n", line) })
	if errors.As(err, new(app.Usage)) {
		return cli.Usage(err)
	}
	return err
}
