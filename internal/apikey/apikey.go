// Package apikey is the format of the keys that weir hands out,
//
//	sk-weir-<id, 8 characters>-<secret, 43 characters>
//
// both in base 62. The id is public: it is how a stored key is found. The
// secret has 256 bits, so a plain keyed hash protects it at rest; a slow
// password hash would only cost time on every request.
package apikey

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"hash"
	"math/big"
	"strings"
	"sync"
)

const (
	prefix   = "sk-weir-"
	alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

	idLength     = 8  // 62^8 ids; the ledger refuses the same one twice
	secretLength = 43 // the fewest base-62 digits that hold 256 bits
	keyLength    = len(prefix) + idLength + 1 + secretLength
)

// HashSize is the length of a stored hash in bytes.
const HashSize = sha256.Size

// Make returns a new key and its id. The key is shown to its owner once and
// stored only as its Hash.
func Make() (key, id string) {
	var secret [secretLength]byte
	var random [32]byte
	rand.Read(random[:])
	rest, base, digit := new(big.Int).SetBytes(random[:]), big.NewInt(int64(len(alphabet))), new(big.Int)
	for i := range secret {
		rest.DivMod(rest, base, digit)
		secret[i] = alphabet[digit.Int64()]
	}
	id = makeID()
	return prefix + id + "-" + string(secret[:]), id
}

// makeID draws uniformly: bytes past the largest multiple of 62 are drawn again.
func makeID() string {
	id := make([]byte, 0, idLength)
	for len(id) < idLength {
		var random [2 * idLength]byte
		rand.Read(random[:])
		for _, b := range random {
			if int(b) < 256/len(alphabet)*len(alphabet) && len(id) < idLength {
				id = append(id, alphabet[int(b)%len(alphabet)])
			}
		}
	}
	return string(id)
}

// Parse returns the id inside a key, and whether the text has the form of a
// key. It does not allocate and says nothing about whether the key is valid.
func Parse(key string) (id string, ok bool) {
	if len(key) != keyLength || !strings.HasPrefix(key, prefix) || key[len(prefix)+idLength] != '-' {
		return "", false
	}
	id = key[len(prefix) : len(prefix)+idLength]
	return id, isBase62(id) && isBase62(key[len(prefix)+idLength+1:])
}

func isBase62(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}

// Prefix is what may be shown of a key to tell it from others.
func Prefix(id string) string { return prefix + id }

// Hash is what is stored of a key: HMAC-SHA256 under the installation's pepper.
// Compare hashes in constant time.
func Hash(pepper []byte, key string) [HashSize]byte { return NewHasher(pepper).Hash(key) }

// Hasher hashes many keys under one pepper, which is prepared once. It is safe
// for concurrent use.
type Hasher struct{ macs sync.Pool }

// NewHasher prepares a pepper.
func NewHasher(pepper []byte) *Hasher {
	return &Hasher{macs: sync.Pool{New: func() any { return hmac.New(sha256.New, pepper) }}}
}

// Hash is Hash under the prepared pepper.
func (h *Hasher) Hash(key string) (sum [HashSize]byte) {
	mac := h.macs.Get().(hash.Hash)
	defer h.macs.Put(mac)
	mac.Reset()
	mac.Write([]byte(key))
	mac.Sum(sum[:0])
	return sum
}
