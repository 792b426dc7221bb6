package stripefake

import (
	"crypto/sha256"
	"net/url"
	"time"
)

const (
	// keyLife is how long Stripe promises to remember a key.
	keyLife = 24 * time.Hour
	// keyLengthMax is Stripe's, in characters.
	keyLengthMax = 255
)

// keyed is what an idempotency key stands for.
type keyed struct {
	hash   [sha256.Size]byte // of path and parameters
	made   time.Time
	answer *answer // nil while the first request is under way
}

// claim takes key for this request. It returns the stored answer if the same
// request was answered before; an error if the key is in use or stands for
// another request.
func (s *Server) claim(key, path string, form url.Values) (*keyed, *answer, error) {
	if key == "" {
		return nil, nil, nil
	}
	if len(key) > keyLengthMax {
		return nil, nil, invalid("", "", "Idempotency keys have at most %d characters.", keyLengthMax)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgetKeys()
	hash := sha256.Sum256([]byte(path + "?" + form.Encode()))
	held, ok := s.keys[key]
	switch {
	case !ok:
		held = &keyed{hash: hash, made: s.now()}
		s.keys[key] = held
		return held, nil, nil
	case held.hash != hash:
		e := invalid("", "", "Keys for idempotent requests can only be used with the same endpoint and parameters they were first used with. "+
			"Try using a key other than '%s' if you meant to execute a different request.", key)
		e.kind = "idempotency_error"
		return nil, nil, e
	case held.answer == nil:
		return nil, nil, &apiError{status: 409, kind: "idempotency_error", code: "idempotency_key_in_use",
			message: "There is currently another in-progress request using this Idempotency-Key."}
	}
	return nil, held.answer, nil
}

// settle keeps the answer under its key, or frees the key if nothing was done:
// a request refused for its parameters may be sent again under it.
func (s *Server) settle(key string, record *keyed, a answer) {
	if record == nil {
		return
	}
	if !a.kept {
		s.release(key, record)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	record.answer = &a
}

// release frees the key of a request that did nothing.
func (s *Server) release(key string, record *keyed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if record != nil && s.keys[key] == record {
		delete(s.keys, key)
	}
}

// forgetKeys drops the keys past their life.
func (s *Server) forgetKeys() {
	for k, held := range s.keys {
		if held.answer != nil && s.now().Sub(held.made) >= keyLife {
			delete(s.keys, k)
		}
	}
}
