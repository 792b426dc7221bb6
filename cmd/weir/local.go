package main

import (
	"cmp"
	"context"
	"fmt"
	"os"

	"weir/internal/cli"
	"weir/internal/config"
	"weir/internal/ledger"
	"weir/schemas/ratecard"
)

const dataDirMode = 0o700 // it holds the admin token and the books

var (
	configFlag = cli.Flag{Name: "config", Value: "FILE", Does: "the configuration; ./" + config.DefaultFile + " if there is one"}
	roleFlag   = cli.Flag{Name: "role", Value: "all|gateway|processor|analytics", Does: "which part of weir this process is"}
)

// local are the verbs that need no running weir.
func local() []cli.Verb {
	return []cli.Verb{
		{Name: "config check", Does: "print the effective configuration, secrets redacted", Settings: true,
			Flags: []cli.Flag{configFlag, roleFlag}, Run: checkConfig},
		{Name: "migrate", Does: "bring the ledger's schema up to this program", Settings: true,
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
	files := []*ratecard.File{ratecard.Builtin()}
	for _, name := range loaded.Rates {
		src, err := os.ReadFile(name)
		if err != nil {
			return cli.Usage(fmt.Errorf("cannot read the rate card: %w", err))
		}
		file, err := ratecard.Parse(name, src)
		if err != nil {
			return cli.Usage(err)
		}
		files = append(files, file)
	}
	if _, err := ratecard.Compose(files...); err != nil {
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
	url := loaded.Ledger.URL.Reveal()
	if url == "" {
		if err := os.MkdirAll(loaded.DataDir, dataDirMode); err != nil {
			return fmt.Errorf("cannot make the data directory: %w", err)
		}
	}
	db, err := ledger.Open(ctx, ledger.Config{URL: url, Dir: loaded.DataDir})
	if err != nil {
		return err
	}
	c.Printf("the ledger's schema (%s) is up to date\n", db.Engine())
	return db.Close()
}
