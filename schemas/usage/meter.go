// Package usage is the record of what happened: the one message that travels
// from a gateway's spool over the usage log to the ledger and the warehouse.
package usage

import "fmt"

// Meter is one exclusive kind of counted usage. No unit is counted in two
// meters: a cached input token is not an input token.
type Meter uint8

// The meters. Their numbers are part of the stored format and never change.
const (
	Input        Meter = iota // tokens read at the full price
	CachedInput               // tokens read from the provider's cache
	CacheWrite5m              // tokens written to a cache that lives five minutes
	CacheWrite1h              // tokens written to a cache that lives an hour
	Output                    // tokens generated and shown
	Reasoning                 // tokens generated and kept by the model
	AudioInput                // tokens
	AudioOutput               // tokens
	ImageInput                // tokens
	ImageOutput               // tokens
	Images                    // pictures made
	Characters                // characters spoken
	Seconds                   // seconds of audio
	WebSearches               // searches the provider ran
	Requests                  // calls priced as such
	NumMeters    = iota
)

var meterNames = [NumMeters]string{"input", "cached_input", "cache_write_5m", "cache_write_1h", "output", "reasoning",
	"audio_input", "audio_output", "image_input", "image_output", "images", "characters", "seconds", "web_searches", "requests"}

// String is the meter's name on rate cards and in the API.
func (m Meter) String() string {
	if int(m) < len(meterNames) {
		return meterNames[m]
	}
	return fmt.Sprintf("meter(%d)", uint8(m))
}

// Tokens tells whether the meter counts tokens (priced per million) rather
// than units (priced each).
func (m Meter) Tokens() bool { return m <= ImageOutput }

// MeterNamed finds a meter by its name.
func MeterNamed(name string) (Meter, bool) {
	for i, n := range meterNames {
		if n == name {
			return Meter(i), true
		}
	}
	return 0, false
}

// Quantities holds one count for every meter.
type Quantities [NumMeters]uint64
