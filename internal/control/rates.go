package control

import (
	"encoding/json"
	"net/http"
	"time"

	"weir/internal/cards"
	"weir/internal/ledger"
	"weir/schemas/ratecard"
)

const versionDigits = 12 // of the card's SHA-256, enough for people to tell cards apart

// publishRates publishes built-in costs ← the body. A card that was published
// before comes into force again, so that an older one can return.
func (p *plane) publishRates(w http.ResponseWriter, r *http.Request) error {
	body, err := readBody(w, r, cardMax)
	if err != nil {
		return err
	}
	file, err := ratecard.Parse("body", body)
	if err != nil {
		return err
	}
	card, err := ratecard.Compose(ratecard.Builtin(), file)
	if err != nil {
		return err
	}
	// A gateway in this process serves the card once the answer is there, others
	// with their next beat; so does this one if the ledger fails just then.
	refresh := func() { _ = p.Cards.Refresh(r.Context()) }
	return p.apply(w, r, change{body: body, then: refresh}, func(tx *ledger.Tx) (int, any, error) {
		_, err := cards.Publish(r.Context(), tx, card, true)
		return http.StatusCreated, map[string]string{"version": card.ID()[:versionDigits]}, err
	})
}

type cardView struct {
	Version       string          `json:"version"`
	Label         string          `json:"label"`
	EffectiveFrom time.Time       `json:"effective_from"`
	CostCard      string          `json:"cost_card"`
	PriceCard     string          `json:"price_card"`
	Models        json.RawMessage `json:"models"`
	Rules         json.RawMessage `json:"rules"`
}

func (p *plane) showRates(w http.ResponseWriter, r *http.Request) error {
	if err := p.Cards.Refresh(r.Context()); err != nil {
		return err
	}
	in := p.Cards.InForce(time.Now())
	if in.Card == nil {
		return refuse(http.StatusNotFound, "not_found", "no rate card is in force yet")
	}
	WriteJSON(w, http.StatusOK, cardView{in.Card.ID()[:versionDigits], in.Label, in.EffectiveFrom, in.Card.CostHash(), in.Card.PriceHash(),
		in.Card.ModelsJSON(), in.Card.RulesJSON()})
	return nil
}

// acceptBatch records that an operator looked at a batch whose promises differ
// from the processor's own rating, and why they stand.
func (p *plane) acceptBatch(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Batch  string `json:"batch"`
		Reason string `json:"reason"`
	}
	body, err := readBody(w, r, bodyMax)
	if err == nil {
		err = decode(body, &in)
	}
	switch {
	case err != nil:
		return err
	case in.Batch == "" || in.Reason == "":
		return invalid("batch and reason are both needed")
	case len(in.Reason) > reasonMax:
		return refuse(http.StatusUnprocessableEntity, "invalid_reason", "reason is longer than %d bytes", reasonMax)
	}
	return p.apply(w, r, change{body: body}, func(tx *ledger.Tx) (int, any, error) {
		return http.StatusOK, in, tx.AcceptBatch(r.Context(), in.Batch, in.Reason)
	})
}
