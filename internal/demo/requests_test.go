package demo

import (
	"reflect"
	"testing"
)

// TestRequests: a seed decides everything that is asked, and the mix has what it promises.
func TestRequests(t *testing.T) {
	const n, customers = 2000, 6
	list := makeRequests(n, 1, customers)
	if !reflect.DeepEqual(list, makeRequests(n, 1, customers)) {
		t.Error("the same seed asks something else")
	}
	if reflect.DeepEqual(list, makeRequests(n, 2, customers)) {
		t.Error("another seed asks the same")
	}
	var streams, errors int
	perCustomer, perModel := make([]int, customers), map[string]int{}
	for _, r := range list {
		perCustomer[r.customer]++
		perModel[r.full()]++
		if r.stream {
			streams++
		}
		if r.providerError != 0 {
			errors++
		}
	}
	// Zipf's law: of 1 + 1/2 + … + 1/6 = 2.45 the first has 41 %, the last 7 %.
	if first, last := perCustomer[0]*100/n, perCustomer[customers-1]*100/n; first < 36 || first > 46 || last < 4 || last > 10 {
		t.Errorf("the first customer has %d %% of the requests, the last %d %%", first, last)
	}
	if len(perModel) != len(kinds) || streams < n/3 || errors == 0 || errors > n/30 {
		t.Errorf("models %v, %d streams, %d errors", perModel, streams, errors)
	}
	card, err := readCard()
	if err != nil {
		t.Fatal(err)
	}
	for model := range perModel {
		if _, priced := card.Models[model]; !priced {
			t.Errorf("%s is asked for and not on the card", model)
		}
	}
}
