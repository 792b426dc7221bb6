package control

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"

	"weir/internal/ledger"
)

// idempotencyKeyMax bounds the client's own name of a request.
const idempotencyKeyMax = 255

// replayedHeader marks an answer that was given before.
const replayedHeader = "Idempotent-Replayed"

// change is one request that changes the ledger.
type change struct {
	body     []byte
	needsKey bool   // money moves: the request must be safe to repeat
	secret   bool   // the answer must not lie in the ledger in clear
	then     func() // after COMMIT, before the answer; nil = nothing
}

// apply runs fn in one transaction with the record of its answer, and answers
// a repetition from that record. fn may run several times, and writes to
// nothing but its transaction.
func (p *plane) apply(w http.ResponseWriter, r *http.Request, c change, fn func(*ledger.Tx) (status int, answer any, err error)) error {
	key, err := idempotencyKey(r, c.needsKey)
	if err != nil {
		return err
	}
	once := ledger.OnceKey{Key: key, Route: r.Method + " " + r.URL.Path, BodyHash: sha256.Sum256(c.body)}
	sealed := c.secret && key != ""
	stored, replayed, err := p.Ledger.Once(r.Context(), once, func(tx *ledger.Tx) (ledger.Answer, error) {
		status, answer, err := fn(tx)
		if err != nil {
			return ledger.Answer{}, err
		}
		body, err := json.Marshal(answer)
		if err == nil && sealed {
			body, err = p.seal(key, body)
		}
		return ledger.Answer{Status: status, Body: body}, err
	})
	if err != nil {
		return err
	}
	if sealed {
		if stored.Body, err = p.unseal(key, stored.Body); err != nil {
			return err
		}
	}
	if c.then != nil {
		c.then()
	}
	if replayed {
		w.Header().Set(replayedHeader, "true")
	}
	writeBody(w, stored.Status, stored.Body)
	return nil
}

// idempotencyKey is the client's name of a request, "" if it gives none and
// need not.
func idempotencyKey(r *http.Request, needed bool) (string, error) {
	key := r.Header.Get("Idempotency-Key")
	switch {
	case key == "" && needed:
		return "", refuse(http.StatusBadRequest, "idempotency_key_required",
			"this request moves money: send an Idempotency-Key header, so that repeating it is safe")
	case len(key) > idempotencyKeyMax || !printable(key):
		return "", invalid("the Idempotency-Key must be at most %d printable ASCII characters", idempotencyKeyMax)
	}
	return key, nil
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// seal encrypts an answer that must be given again but holds a secret: a new
// API key must be readable neither in the ledger nor in its backups. The
// operator's token is the one secret that is not kept there.
func (p *plane) seal(idempotencyKey string, body []byte) ([]byte, error) {
	aead, err := p.sealing(idempotencyKey)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, aead.NonceSize())
	rand.Read(nonce)
	return aead.Seal(nonce, nonce, body, nil), nil
}

func (p *plane) unseal(idempotencyKey string, sealed []byte) ([]byte, error) {
	aead, err := p.sealing(idempotencyKey)
	if err != nil {
		return nil, err
	}
	if len(sealed) >= aead.NonceSize() {
		if body, err := aead.Open(nil, sealed[:aead.NonceSize()], sealed[aead.NonceSize():], nil); err == nil {
			return body, nil
		}
	}
	return nil, refuse(http.StatusConflict, "idempotency_conflict",
		"this request was answered under another admin token, and its secret cannot be shown again: end what it made, and make it anew")
}

func (p *plane) sealing(idempotencyKey string) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, []byte(p.Token), []byte(idempotencyKey), "weir sealed answer", 32)
	if err != nil {
		return nil, fmt.Errorf("cannot derive a sealing key: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("cannot seal an answer: %w", err)
	}
	return cipher.NewGCM(block)
}
