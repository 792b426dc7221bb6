package control

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"weir/internal/config"
	"weir/internal/ledger"
)

const (
	pepperSetting = "key_pepper" // the ledger's name for it
	pepperSize    = 32           // bytes, as many as the hash has
)

// Token is the admin token: the configured one, else that of the data
// directory, made at first start and readable by its owner only.
func Token(dataDir, configured string) (string, error) {
	if configured != "" {
		return configured, nil
	}
	name := filepath.Join(dataDir, config.TokenFile)
	text, err := os.ReadFile(name)
	switch {
	case err == nil:
		if token := strings.TrimSpace(string(text)); token != "" {
			return token, nil
		}
		return "", fmt.Errorf("%s is empty: remove it, and the next start makes a new token", name)
	case !errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("cannot read the admin token: %w", err)
	}
	token := rand.Text() // 130 random bits
	if err := writeNew(name, token+"\n"); err != nil {
		return "", fmt.Errorf("cannot keep the admin token: %w", err)
	}
	return token, nil
}

// writeNew writes a file that is either there whole or not at all: a token cut
// short by a crash would lock the operator out.
func writeNew(name, text string) error {
	f, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails once it is renamed
	_, err = f.WriteString(text)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// Pepper is what API keys are hashed with: the configured text, else random
// bytes that the ledger keeps from the first start on.
func Pepper(ctx context.Context, db *ledger.DB, configured string) ([]byte, error) {
	if configured != "" {
		return []byte(configured), nil
	}
	var random [pepperSize]byte
	rand.Read(random[:])
	text, err := db.Setting(ctx, pepperSetting, hex.EncodeToString(random[:]))
	if err != nil {
		return nil, err
	}
	pepper, err := hex.DecodeString(text)
	if err != nil || len(pepper) != pepperSize {
		return nil, fmt.Errorf("the ledger's setting %s is not %d bytes in hex", pepperSetting, pepperSize)
	}
	return pepper, nil
}
