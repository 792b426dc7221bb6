package sdk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
)

// goErrors: the SDKs for Go have one type of error, which carries the status.
var goErrors = errorNames{0: "*apierror.Error"}

// goCall makes a call of a plan and returns what the SDK made of it. An error
// stands for an observation of its own, unless something was seen before it.
type goCall func(ctx context.Context, baseURL, key string, request []byte) (object, error)

// goDriver runs a plan in this process, all calls at once.
func goDriver(hows map[string]goCall) driver {
	return func(ctx context.Context, p plan) ([]observation, error) {
		seen := make(chan observation)
		for _, c := range p.Calls {
			go func() {
				request, err := json.Marshal(c.Request)
				o := observation{Case: c.Case}
				if err == nil {
					o.Seen, err = hows[c.How](ctx, p.BaseURL, c.Key, request)
				}
				o.Seen = withFailure(o.Seen, err)
				seen <- o
			}()
		}
		var all []observation
		for range p.Calls {
			all = append(all, <-seen)
		}
		return all, nil
	}
}

// withFailure adds to what was seen how the call failed, if it did.
func withFailure(seen object, err error) object {
	if err == nil {
		return seen
	}
	failure := object{"error": fmt.Sprintf("%T", err), "message": err.Error()}
	if seen != nil {
		failure["failed"] = true
	}
	openaiFailure(failure, err)
	anthropicFailure(failure, err)
	maps.Copy(failure, seen)
	return failure
}

// inParallel makes the calls at once; the n-th asks for n tokens, and every
// other one is a stream.
func inParallel(request []byte, call func(request []byte, stream bool) (object, error)) (object, error) {
	out, failed := make([]any, parallelCalls), make([]error, parallelCalls)
	var calls sync.WaitGroup
	for i := range parallelCalls {
		calls.Go(func() {
			ask := strings.Replace(string(request), "out=40", fmt.Sprint("out=", i+1), 1)
			seen, err := call([]byte(ask), i%2 == 1)
			out[i], failed[i] = seen["out"], err
		})
	}
	calls.Wait()
	return object{"out": out}, errors.Join(failed...)
}
