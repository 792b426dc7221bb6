package provider

import (
	"net/http"
	"slices"
	"strings"
)

// RefuseHeader refuses a request header that can change the price of an answer:
// nil for all others, else a *Refusal. It judges each line of a repeated header
// by itself, and no header that the gateway does not send on.
func (api *API) RefuseHeader(name, value string) error {
	if !strings.EqualFold(name, api.Features) {
		return nil
	}
	for feature := range strings.SplitSeq(value, ",") {
		undated := strings.TrimRight(strings.TrimSpace(feature), "0123456789-")
		if undated != "" && !slices.Contains(api.FreeFeatures, undated) {
			return &Refusal{Status: http.StatusUnprocessableEntity, Code: "unpriced_option", Field: api.Features,
				Message: api.Features + ": this feature is not priced, so it is not served: " + undated}
		}
	}
	return nil
}
