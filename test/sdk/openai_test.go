package sdk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/packages/ssestream"
)

func TestGoOpenAI(t *testing.T) {
	check(t, &openaiProvider, goDriver(map[string]goCall{
		"create": openaiCreate, "headers": openaiHeaders, "stream": openaiStream, "helper": openaiHelper, "parallel": openaiParallel,
		"embed": openaiEmbed, "models": openaiModels, "unmetered": openaiUnmetered, "retrieve": openaiRetrieve,
	}), goErrors)
}

// openaiFailure adds what an error of this SDK tells.
func openaiFailure(failure object, err error) {
	var no *openai.Error
	if !errors.As(err, &no) {
		return
	}
	failure["status"], failure["code"], failure["type"], failure["message"] = no.StatusCode, no.Code, no.Type, no.Message
	failure["request_id"] = no.Response.Header.Get("X-Request-Id") != ""
}

func openaiClient(baseURL, key string) openai.Client {
	return openai.NewClient(option.WithBaseURL(baseURL), option.WithAPIKey(key))
}

// openaiAsk reads a request into the SDK's own type. Members it does not know are sent all the same.
func openaiAsk(request []byte) (ask openai.ChatCompletionNewParams, err error) {
	return ask, json.Unmarshal(request, &ask)
}

func openaiAnswer(c *openai.ChatCompletion) object {
	seen := object{"call": nil, "text": c.Choices[0].Message.Content, "stop": c.Choices[0].FinishReason, "model": c.Model,
		"in": c.Usage.PromptTokens, "out": c.Usage.CompletionTokens}
	if calls := c.Choices[0].Message.ToolCalls; len(calls) > 0 {
		seen["call"] = calls[0].Function.Name + " " + calls[0].Function.Arguments
	}
	return seen
}

func openaiCreate(ctx context.Context, baseURL, key string, request []byte) (object, error) {
	seen, err := openaiHeaders(ctx, baseURL, key, request)
	delete(seen, "price")
	return seen, err
}

func openaiHeaders(ctx context.Context, baseURL, key string, request []byte) (object, error) {
	ask, err := openaiAsk(request)
	if err != nil {
		return nil, err
	}
	client := openaiClient(baseURL, key)
	var response *http.Response
	completion, err := client.Chat.Completions.New(ctx, ask, option.WithResponseInto(&response))
	if err != nil {
		return nil, err
	}
	seen := openaiAnswer(completion)
	seen["price"] = response.Header.Get("X-Weir-Price")
	return seen, nil
}

func openaiChunks(ctx context.Context, baseURL, key string, request []byte) (*ssestream.Stream[openai.ChatCompletionChunk], error) {
	ask, err := openaiAsk(request)
	if err != nil {
		return nil, err
	}
	client := openaiClient(baseURL, key)
	return client.Chat.Completions.NewStreaming(ctx, ask), nil
}

func openaiStream(ctx context.Context, baseURL, key string, request []byte) (object, error) {
	chunks, err := openaiChunks(ctx, baseURL, key, request)
	if err != nil {
		return nil, err
	}
	text, call, count, empty := "", "", 0, 0
	seen := object{"call": nil, "in": nil, "out": nil, "stop": nil}
	for chunks.Next() {
		chunk := chunks.Current()
		count++
		if chunk.JSON.Usage.Valid() {
			seen["in"], seen["out"] = chunk.Usage.PromptTokens, chunk.Usage.CompletionTokens
		}
		if len(chunk.Choices) == 0 {
			empty++
		}
		for _, choice := range chunk.Choices {
			text += choice.Delta.Content
			for _, part := range choice.Delta.ToolCalls {
				if part.Function.Name != "" {
					call = part.Function.Name + " "
				}
				call += part.Function.Arguments
				seen["call"] = call
			}
			if choice.FinishReason != "" {
				seen["stop"] = choice.FinishReason
			}
		}
	}
	if count == 0 {
		return nil, chunks.Err()
	}
	seen["text"], seen["chunks"], seen["empty"] = text, count, empty
	return seen, chunks.Err()
}

func openaiHelper(ctx context.Context, baseURL, key string, request []byte) (object, error) {
	chunks, err := openaiChunks(ctx, baseURL, key, request)
	if err != nil {
		return nil, err
	}
	var whole openai.ChatCompletionAccumulator
	for chunks.Next() {
		if !whole.AddChunk(chunks.Current()) {
			return nil, errors.New("the accumulator refused a chunk")
		}
	}
	if err := chunks.Err(); err != nil {
		return nil, err
	}
	return openaiAnswer(&whole.ChatCompletion), nil
}

func openaiParallel(ctx context.Context, baseURL, key string, request []byte) (object, error) {
	return inParallel(request, func(request []byte, stream bool) (object, error) {
		if !stream {
			return openaiCreate(ctx, baseURL, key, request)
		}
		return openaiStream(ctx, baseURL, key, append([]byte(`{"stream_options":{"include_usage":true},`), request[1:]...))
	})
}

func openaiEmbed(ctx context.Context, baseURL, key string, request []byte) (object, error) {
	var ask openai.EmbeddingNewParams
	if err := json.Unmarshal(request, &ask); err != nil {
		return nil, err
	}
	client := openaiClient(baseURL, key)
	vectors, err := client.Embeddings.New(ctx, ask)
	if err != nil {
		return nil, err
	}
	first := vectors.Data[0].Embedding
	return object{"vectors": len(vectors.Data), "dimensions": len(first), "first": fmt.Sprintf("%.6f", first[0]), "in": vectors.Usage.PromptTokens}, nil
}

func openaiModels(ctx context.Context, baseURL, key string, _ []byte) (object, error) {
	client := openaiClient(baseURL, key)
	pages := client.Models.ListAutoPaging(ctx)
	var ids []string
	for pages.Next() {
		ids = append(ids, pages.Current().ID)
	}
	return object{"ids": ids}, pages.Err()
}

func openaiUnmetered(ctx context.Context, baseURL, key string, _ []byte) (object, error) {
	client := openaiClient(baseURL, key)
	_, err := client.Files.List(ctx, openai.FileListParams{})
	return nil, err
}

func openaiRetrieve(ctx context.Context, baseURL, key string, request []byte) (object, error) {
	ask, err := openaiAsk(request)
	if err != nil {
		return nil, err
	}
	client := openaiClient(baseURL, key)
	_, err = client.Models.Get(ctx, ask.Model)
	return nil, err
}
