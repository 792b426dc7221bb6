package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
)

const (
	// templates is how many different bodies there are of each kind: enough that no cache
	// of answers could hide work, few enough to be made before the clock starts.
	templates = 256
	// Prompts are this long, so that bodies are between half a KiB and four.
	promptBytesMin = 400
	promptBytesMax = 3600
)

var modelsOf = map[string][]string{
	"openai":    {"gpt-4o-mini", "gpt-4o", "gpt-4.1-mini"},
	"anthropic": {"claude-sonnet-4-5", "claude-haiku-4-5"},
}

// request is one prepared request.
type request struct {
	api    string // openai, anthropic
	model  string
	stream bool
	body   []byte
}

// prepare makes the requests a run repeats, in a random order that follows from the seed.
func prepare(c *config) ([]request, error) {
	random := rand.New(rand.NewPCG(c.seed, 0))
	var all []request
	for _, api := range []string{"openai", "anthropic"} {
		for _, stream := range []bool{false, true} {
			if (c.api != "mixed" && c.api != api) || (c.mode == "json" && stream) || (c.mode == "sse" && !stream) {
				continue
			}
			for range templates {
				models := modelsOf[api]
				r := request{api: api, model: models[random.IntN(len(models))], stream: stream}
				var err error
				if r.body, err = r.render(random, c.marker); err != nil {
					return nil, fmt.Errorf("cannot make a request body: %w", err)
				}
				all = append(all, r)
			}
		}
	}
	random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all, nil
}

type turn struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

const system = "You help the customers of an online shop. Answer briefly, name your source, and never promise a refund."

// render makes a body as an application sends it: instructions, some turns, a few options.
func (r *request) render(random *rand.Rand, marker string) ([]byte, error) {
	length := promptBytesMin + random.IntN(promptBytesMax-promptBytesMin)
	first := prose(random, length/2)
	if marker != "" {
		first = "[[standin " + marker + "]] " + first
	}
	turns := []turn{{"user", first}, {"assistant", prose(random, length/4)}, {"user", prose(random, length/4)}}
	body := map[string]any{"model": r.model, "max_tokens": 256 + random.IntN(768), "temperature": 0.7}
	if r.api == "openai" {
		turns = append([]turn{{"system", system}}, turns...)
		body["user"] = fmt.Sprintf("user-%d", random.IntN(1000))
	} else {
		body["system"] = system
	}
	body["messages"] = turns
	if r.stream {
		body["stream"] = true
		if r.api == "openai" && random.IntN(2) == 0 { // half of the clients ask for usage themselves
			body["stream_options"] = map[string]bool{"include_usage": true}
		}
	}
	return json.Marshal(body)
}

var words = strings.Fields("the order arrived late and box was open inside there were two of three parts which i had paid for " +
	"please tell me how to return them or whether you can send what is missing before friday because it is a present \"thanks\" größe")

func prose(random *rand.Rand, length int) string {
	var b strings.Builder
	for b.Len() < length {
		b.WriteString(words[random.IntN(len(words))])
		b.WriteByte(" \n"[min(1, random.IntN(40)/39)])
	}
	return b.String()
}
