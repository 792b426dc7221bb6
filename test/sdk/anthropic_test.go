package sdk

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"testing"

	"github.com/anthropics/anthropic-sdk-go/v2"
	"github.com/anthropics/anthropic-sdk-go/v2/option"
	"github.com/anthropics/anthropic-sdk-go/v2/packages/ssestream"
)

func TestGoAnthropic(t *testing.T) {
	check(t, &anthropicProvider, goDriver(map[string]goCall{
		"create": anthropicCreate, "headers": anthropicHeaders, "stream": anthropicStream, "helper": anthropicHelper,
		"parallel": anthropicParallel, "beta": anthropicBeta, "models": anthropicModels, "unmetered": anthropicUnmetered, "retrieve": anthropicRetrieve, "count": anthropicCount,
		"bearer": anthropicBearer,
	}), goErrors)
}

// anthropicFailure adds what an error of this SDK tells.
func anthropicFailure(failure object, err error) {
	var no *anthropic.Error
	if !errors.As(err, &no) {
		return
	}
	var body struct{ Error struct{ Code string } }
	if json.Unmarshal([]byte(no.RawJSON()), &body) == nil {
		failure["code"] = body.Error.Code
	}
	failure["status"], failure["type"], failure["message"], failure["request_id"] = no.StatusCode, no.Type(), no.Message, no.RequestID != ""
}

func anthropicClient(baseURL, key string) anthropic.Client {
	return anthropic.NewClient(option.WithBaseURL(baseURL), option.WithAPIKey(key))
}

// anthropicAsk reads a request into the SDK's own type.
func anthropicAsk(request []byte) (ask anthropic.MessageNewParams, err error) {
	return ask, json.Unmarshal(request, &ask)
}

func anthropicAnswer(m *anthropic.Message) object {
	seen, text := object{"call": nil}, ""
	for _, block := range m.Content {
		text += block.Text
		if block.Type == "tool_use" {
			seen["call"] = block.Name + " " + string(block.Input)
		}
	}
	seen["text"], seen["stop"], seen["model"], seen["in"], seen["out"] = text, m.StopReason, m.Model, m.Usage.InputTokens, m.Usage.OutputTokens
	return seen
}

func anthropicCreate(ctx context.Context, baseURL, key string, request []byte) (object, error) {
	seen, err := anthropicHeaders(ctx, baseURL, key, request)
	delete(seen, "price")
	return seen, err
}

func anthropicHeaders(ctx context.Context, baseURL, key string, request []byte) (object, error) {
	ask, err := anthropicAsk(request)
	if err != nil {
		return nil, err
	}
	client := anthropicClient(baseURL, key)
	var response *http.Response
	message, err := client.Messages.New(ctx, ask, option.WithResponseInto(&response))
	if err != nil {
		return nil, err
	}
	seen := anthropicAnswer(message)
	seen["price"] = response.Header.Get("X-Weir-Price")
	return seen, nil
}

func anthropicEvents(ctx context.Context, baseURL, key string, request []byte) (*ssestream.Stream[anthropic.MessageStreamEventUnion], error) {
	ask, err := anthropicAsk(request)
	if err != nil {
		return nil, err
	}
	client := anthropicClient(baseURL, key)
	return client.Messages.NewStreaming(ctx, ask), nil
}

func anthropicStream(ctx context.Context, baseURL, key string, request []byte) (object, error) {
	events, err := anthropicEvents(ctx, baseURL, key, request)
	if err != nil {
		return nil, err
	}
	text, call, kinds := "", "", []string(nil)
	seen := object{"call": nil, "in": nil, "out": nil, "stop": nil}
	for events.Next() {
		event := events.Current()
		if len(kinds) == 0 || kinds[len(kinds)-1] != string(event.Type) {
			kinds = append(kinds, string(event.Type))
		}
		switch e := event.AsAny().(type) {
		case anthropic.MessageStartEvent:
			seen["in"] = e.Message.Usage.InputTokens
		case anthropic.ContentBlockStartEvent:
			if e.ContentBlock.Type == "tool_use" {
				call = e.ContentBlock.Name + " "
			}
		case anthropic.ContentBlockDeltaEvent:
			text += e.Delta.Text
			if call += e.Delta.PartialJSON; call != "" {
				seen["call"] = call
			}
		case anthropic.MessageDeltaEvent:
			seen["stop"], seen["out"] = e.Delta.StopReason, e.Usage.OutputTokens
		}
	}
	if len(kinds) == 0 {
		return nil, events.Err()
	}
	seen["text"], seen["events"] = text, kinds
	return seen, events.Err()
}

func anthropicHelper(ctx context.Context, baseURL, key string, request []byte) (object, error) {
	events, err := anthropicEvents(ctx, baseURL, key, request)
	if err != nil {
		return nil, err
	}
	var whole anthropic.Message
	for events.Next() {
		if err := whole.Accumulate(events.Current()); err != nil {
			return nil, err
		}
	}
	if err := events.Err(); err != nil {
		return nil, err
	}
	return anthropicAnswer(&whole), nil
}

func anthropicParallel(ctx context.Context, baseURL, key string, request []byte) (object, error) {
	return inParallel(request, func(request []byte, stream bool) (object, error) {
		if !stream {
			return anthropicCreate(ctx, baseURL, key, request)
		}
		return anthropicStream(ctx, baseURL, key, request)
	})
}

func anthropicBeta(ctx context.Context, baseURL, key string, request []byte) (object, error) {
	var ask anthropic.BetaMessageNewParams
	if err := json.Unmarshal(request, &ask); err != nil {
		return nil, err
	}
	ask.Betas = []anthropic.AnthropicBeta{beta}
	client := anthropicClient(baseURL, key)
	message, err := client.Beta.Messages.New(ctx, ask)
	if err != nil {
		return nil, err
	}
	return object{"text": message.Content[0].Text, "stop": message.StopReason, "in": message.Usage.InputTokens, "out": message.Usage.OutputTokens}, nil
}

// beta is a feature that changes no price.
const beta = "interleaved-thinking-2025-05-14"

func anthropicModels(ctx context.Context, baseURL, key string, _ []byte) (object, error) {
	client := anthropicClient(baseURL, key)
	pages := client.Models.ListAutoPaging(ctx, anthropic.ModelListParams{})
	var ids []string
	for pages.Next() {
		ids = append(ids, pages.Current().ID)
	}
	return object{"ids": ids}, pages.Err()
}

func anthropicUnmetered(ctx context.Context, baseURL, key string, _ []byte) (object, error) {
	client := anthropicClient(baseURL, key)
	_, err := client.Messages.Batches.List(ctx, anthropic.MessageBatchListParams{})
	return nil, err
}

func anthropicRetrieve(ctx context.Context, baseURL, key string, request []byte) (object, error) {
	ask, err := anthropicAsk(request)
	if err != nil {
		return nil, err
	}
	client := anthropicClient(baseURL, key)
	_, err = client.Models.Get(ctx, string(ask.Model), anthropic.ModelGetParams{})
	return nil, err
}

func anthropicCount(ctx context.Context, baseURL, key string, request []byte) (object, error) {
	ask, err := anthropicAsk(request)
	if err != nil {
		return nil, err
	}
	client := anthropicClient(baseURL, key)
	_, err = client.Messages.CountTokens(ctx, anthropic.MessageCountTokensParams{Model: ask.Model, Messages: ask.Messages})
	return nil, err
}

func anthropicBearer(ctx context.Context, baseURL, key string, request []byte) (object, error) {
	ask, err := anthropicAsk(request)
	if err != nil {
		return nil, err
	}
	client := anthropic.NewClient(option.WithBaseURL(baseURL), option.WithAuthToken(key))
	message, err := client.Messages.New(ctx, ask)
	if err != nil {
		return nil, err
	}
	return anthropicAnswer(message), nil
}
