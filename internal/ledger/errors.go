package ledger

import (
	"errors"
	"fmt"

	"weir/schemas/money"
)

// The refusals a caller can tell apart with errors.Is. Every other error means
// that the ledger could not be asked: 503, never 401 or 402.
var (
	ErrNotFound       = errors.New("not found")
	ErrExists         = errors.New("exists already")
	ErrFrozen         = errors.New("the wallet is frozen")
	ErrInsufficient   = errors.New("insufficient funds")
	ErrFenced         = errors.New("the cursor or the owner of this partition has moved")
	ErrSuperseded     = errors.New("a newer session of this gateway exists")
	ErrSessionEnded   = errors.New("the session has ended")
	ErrSessionExpired = errors.New("the session was not heard within its TTL, beat first")
	ErrLeaseClosed    = errors.New("the lease is closed")
	ErrAlone          = errors.New("another live session uses this ledger, and one of the two must be alone")
	ErrConflict       = errors.New("the same identity was used for something else")
)

// errAmbiguous marks a COMMIT whose outcome is unknown: the connection broke
// before its answer came.
var errAmbiguous = errors.New("the outcome of COMMIT is unknown")

// InsufficientError refuses an amount that the wallet does not have available.
// Required ≤ Wallet.Balance() says that the money is there but held.
type InsufficientError struct {
	Wallet   Wallet
	Required money.Nano
}

func (e *InsufficientError) Error() string {
	return fmt.Sprintf("insufficient funds: %s required, %s available (balance %s, held %s)",
		e.Required, e.Wallet.Available(), e.Wallet.Balance(), e.Wallet.Held)
}

// Is makes errors.Is(err, ErrInsufficient) true.
func (e *InsufficientError) Is(target error) bool { return target == ErrInsufficient }
