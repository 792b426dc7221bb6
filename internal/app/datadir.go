package app

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/google/uuid"

	"weir/internal/cards"
	"weir/internal/control"
)

// runFile tells clients on this machine where a running weir listens.
const runFile = "run.json"

const dataDirMode = 0o700 // it holds the admin token and the books

// dataDir is the process' own directory, locked while it runs.
type dataDir struct {
	path      string
	lock      *os.File
	gatewayID string // names this directory's spool, and so its leases, for ever
}

// openFiles takes the data directory and reads or makes its secrets. Rate cards
// are judged here, before anything is reached that may be away: a bad one stays
// bad.
func (a *App) openFiles() (err error) {
	if _, err := cards.Compose(a.cfg.Rates); err != nil {
		return Usage{err}
	}
	if a.dir, err = openDataDir(a.cfg.DataDir); err != nil {
		return Usage{err}
	}
	a.token, err = control.Token(a.cfg.DataDir, a.cfg.Admin.Token.Reveal())
	return err
}

func openDataDir(path string) (*dataDir, error) {
	if err := os.MkdirAll(path, dataDirMode); err != nil {
		return nil, fmt.Errorf("cannot use data_dir: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(path, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot use data_dir: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("data_dir %s is in use by another weir: %w", path, err), lock.Close())
	}
	d := &dataDir{path: path, lock: lock}
	if d.gatewayID, err = gatewayID(filepath.Join(path, "gateway-id")); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return d, nil
}

func gatewayID(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err == nil {
		if id := strings.TrimSpace(string(text)); id != "" {
			return id, nil
		}
		return "", fmt.Errorf("%s is empty; it named the leases of this data directory", path)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("cannot read the gateway's id: %w", err)
	}
	id := "gw-" + uuid.NewString()
	return id, writeWhole(path, []byte(id+"\n"))
}

// writeWhole writes a file that is there whole or not at all.
func writeWhole(path string, text []byte) error {
	temporary := path + ".new"
	f, err := os.OpenFile(temporary, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}

// Ready is the line a process prints, and keeps in run.json, once it admits
// requests.
type Ready struct {
	Msg string `json:"msg"`
	PID int    `json:"pid"`
	Addresses
}

func (d *dataDir) writeRun(addresses Addresses) error {
	text, err := json.Marshal(Ready{"ready", os.Getpid(), addresses})
	if err == nil {
		err = writeWhole(filepath.Join(d.path, runFile), append(text, '\n'))
	}
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", runFile, err)
	}
	return nil
}

func (d *dataDir) close() error {
	err := os.Remove(filepath.Join(d.path, runFile))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, d.lock.Close())
}
