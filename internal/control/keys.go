package control

import (
	"encoding/json"
	"net/http"
	"time"

	"weir/internal/apikey"
	"weir/internal/ledger"
)

const (
	modelsMax    = 200 // models one key may be restricted to
	modelNameMax = 200 // bytes of a model's name
)

type newKeyView struct {
	ID     string `json:"id"`
	Key    string `json:"key"`
	Prefix string `json:"prefix"`
}

type keyView struct {
	ID        string        `json:"id"`
	Name      string        `json:"name"`
	Prefix    string        `json:"prefix"`
	Models    []string      `json:"models"`
	ExpiresAt *time.Time    `json:"expires_at"`
	RevokedAt *time.Time    `json:"revoked_at"`
	CreatedAt time.Time     `json:"created_at"`
	Limits    ledger.Limits `json:"limits,omitzero"`
}

func viewKey(k ledger.Key) any {
	if k.Models == nil {
		k.Models = []string{} // all
	}
	return keyView{k.ID, k.Name, k.Prefix, k.Models, k.ExpiresAt, k.RevokedAt, k.CreatedAt.UTC(), k.Limits}
}

func (p *plane) createKey(w http.ResponseWriter, r *http.Request) error {
	return p.makeKey(w, r, r.PathValue("id"))
}

func (p *plane) createOperatorKey(w http.ResponseWriter, r *http.Request) error {
	return p.makeKey(w, r, "")
}

func (p *plane) makeKey(w http.ResponseWriter, r *http.Request, customer string) error {
	var in struct {
		Name      string          `json:"name"`
		Models    []string        `json:"models"`
		ExpiresAt string          `json:"expires_at"`
		Limits    json.RawMessage `json:"limits"`
	}
	body, err := readBody(w, r, bodyMax)
	if err == nil {
		err = decode(body, &in)
	}
	if err != nil {
		return err
	}
	limit, err := readLimits(in.Limits)
	if err != nil {
		return err
	}
	stored := ledger.Key{Customer: customer, Name: in.Name, Models: in.Models}
	limit(&stored.Limits)
	if in.ExpiresAt != "" {
		at, err := time.Parse(time.RFC3339, in.ExpiresAt)
		if err != nil {
			return refuse(http.StatusUnprocessableEntity, "invalid_time", "expires_at: %q is not a time such as 2027-01-31T00:00:00Z", in.ExpiresAt)
		}
		stored.ExpiresAt = &at
	}
	switch {
	case len(in.Name) > nameMax:
		return refuse(http.StatusUnprocessableEntity, "invalid_name", "name is longer than %d bytes", nameMax)
	case len(in.Models) > modelsMax:
		return refuse(http.StatusUnprocessableEntity, "invalid_models", "models: more than %d; leave it out for all", modelsMax)
	}
	for _, m := range in.Models {
		if m == "" || len(m) > modelNameMax {
			return refuse(http.StatusUnprocessableEntity, "invalid_models", "models: %.*q is no name of a model", modelNameMax, m)
		}
	}
	return p.apply(w, r, change{body: body, secret: true}, func(tx *ledger.Tx) (int, any, error) {
		key, id := apikey.Make()
		hash := apikey.Hash(p.Pepper, key)
		stored := stored
		stored.ID, stored.Prefix, stored.Hash = id, apikey.Prefix(id), hash[:]
		return http.StatusCreated, newKeyView{id, key, stored.Prefix}, tx.CreateKey(r.Context(), stored)
	})
}

func (p *plane) listKeys(w http.ResponseWriter, r *http.Request) error {
	if _, err := p.Ledger.Customer(r.Context(), r.PathValue("id")); err != nil {
		return err
	}
	return p.writeKeys(w, r, r.PathValue("id"))
}

func (p *plane) listOperatorKeys(w http.ResponseWriter, r *http.Request) error {
	return p.writeKeys(w, r, "")
}

func (p *plane) writeKeys(w http.ResponseWriter, r *http.Request, customer string) error {
	page, err := page(r.URL.Query())
	if err != nil {
		return err
	}
	list, next, err := p.Ledger.Keys(r.Context(), customer, page)
	if err != nil {
		return err
	}
	writeList(w, list, next, viewKey)
	return nil
}

func (p *plane) revokeKey(w http.ResponseWriter, r *http.Request) error {
	err := p.Ledger.Tx(r.Context(), func(tx *ledger.Tx) error { return tx.RevokeKey(r.Context(), r.PathValue("id")) })
	if err != nil {
		return err
	}
	writeBody(w, http.StatusNoContent, nil)
	return nil
}
