package notify

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

const (
	secretPrefix = "whsec_"
	// secretBytes are of a secret's 24 to 64 that Standard Webhooks allows.
	secretBytes = 32
)

// NewSecret makes the secret that an endpoint proves our deliveries with.
func NewSecret() string {
	var b [secretBytes]byte
	rand.Read(b[:])
	return secretPrefix + base64.StdEncoding.EncodeToString(b[:])
}

// Sealer keeps the secrets of endpoints out of the ledger's clear text and its
// backups.
type Sealer struct{ aead cipher.AEAD }

// NewSealer derives the key from the one that API keys are hashed with.
func NewSealer(pepper []byte) (*Sealer, error) {
	key, err := hkdf.Key(sha256.New, pepper, nil, "weir webhook secrets", 32)
	if err != nil {
		return nil, fmt.Errorf("cannot derive a sealing key: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("cannot make a sealing key: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("cannot make a sealing key: %w", err)
	}
	return &Sealer{aead}, nil
}

// Seal encrypts a secret for the URL that it is used at: under another URL it
// cannot be opened, so that changing one does not hand the secret on.
func (s *Sealer) Seal(secret, url string) []byte {
	nonce := make([]byte, s.aead.NonceSize())
	rand.Read(nonce)
	return s.aead.Seal(nonce, nonce, []byte(secret), []byte(url))
}

var errUnsealed = errors.New("its secret was sealed under another keys.pepper: delete the webhook and make it again")

// Open decrypts what Seal made.
func (s *Sealer) Open(sealed []byte, url string) (string, error) {
	n := s.aead.NonceSize()
	if len(sealed) < n {
		return "", errUnsealed
	}
	secret, err := s.aead.Open(nil, sealed[:n], sealed[n:], []byte(url))
	if err != nil || !strings.HasPrefix(string(secret), secretPrefix) {
		return "", errUnsealed
	}
	return string(secret), nil
}
