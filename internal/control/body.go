package control

import (
	"errors"
	"io"
	"net/http"

	"weir/internal/strictjson"
)

// readBody reads at most limit bytes of a body.
func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, refuse(http.StatusRequestEntityTooLarge, "body_too_large", "the body is larger than %d bytes", limit)
	case err != nil:
		return nil, invalid("the body ends early")
	}
	return body, nil
}

// decode reads one JSON object into the struct to points at. An empty body is {}.
func decode(body []byte, to any) error {
	if err := strictjson.Decode(body, to); err != nil {
		return invalid("%s", err)
	}
	return nil
}
