package main

import (
	"net/http/httptest"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"weir/topup/stripefake"
)

const stripeSecret = "whsec_script"

// stripeAccount gives a script a Stripe of its own at $STRIPE.
func stripeAccount(env *testscript.Env) {
	fake := stripefake.New(stripefake.Options{Secret: "sk_test_script", WebhookSecret: stripeSecret})
	server := httptest.NewServer(fake)
	env.Defer(func() {
		fake.Close()
		server.Close()
	})
	env.Values["stripe"] = fake
	env.Setenv("STRIPE", server.URL)
}

// slowCharge is how long a slow charge takes: long enough to end a process amid
// it, also where starting a command takes seconds.
const slowCharge = 5 * time.Second

// stripe hooked makes Stripe send its events to the weir at $CONTROL, stripe
// slow makes charges take a while, and stripe charges N fails unless there were N.
func stripe(ts *testscript.TestScript, _ bool, args []string) {
	fake := ts.Value("stripe").(*stripefake.Server)
	switch args[0] {
	case "hooked":
		fake.SetWebhook("http://"+ts.Getenv("CONTROL")+"/webhooks/stripe", stripeSecret, "")
	case "slow":
		fake.Inject(stripefake.Fault{Match: "POST /v1/payment_intents", Count: 1, Delay: slowCharge, Slow: true})
	case "charges":
		if made := fake.Log().Charges; strconv.Itoa(len(made)) != args[1] {
			ts.Fatalf("%d charges: %+v", len(made), made)
		}
	default:
		ts.Fatalf("stripe does not know %q", args[0])
	}
}

// killed ends what runs in the background with kill -9.
func killed(ts *testscript.TestScript, _ bool, _ []string) {
	for _, c := range ts.BackgroundCmds() {
		ts.Check(c.Process.Kill())
	}
}

// pays CARD FILE pays the page whose address is all of a file, or of stdout.
func pays(ts *testscript.TestScript, _ bool, args []string) {
	address := strings.TrimSpace(ts.ReadFile(args[1]))
	session := regexp.MustCompile(`^http://127\.0\.0\.1:\d+/pay/(cs_\w+)\S*$`).FindStringSubmatch(address)
	if session == nil {
		ts.Fatalf("%q is not the address of a page", address)
	}
	status, err := ts.Value("stripe").(*stripefake.Server).Pay(session[1], args[0])
	ts.Check(err)
	ts.Logf("%s", status)
}

// creditTime is how long money that was paid may take to reach the wallet.
const creditTime = 10 * time.Second

// until REGEXP COMMAND… runs a command again until its output matches, and sets
// FOUND to what a group of it matched.
func until(ts *testscript.TestScript, _ bool, args []string) {
	want := regexp.MustCompile(`(?m)` + args[0])
	for deadline := time.Now().Add(creditTime); ; time.Sleep(20 * time.Millisecond) {
		err := ts.Exec(args[1], args[2:]...)
		if _, failed := err.(*exec.ExitError); err != nil && !failed {
			ts.Check(err)
		}
		out := ts.ReadFile("stdout")
		if found := want.FindStringSubmatch(out); found != nil {
			if len(found) > 1 {
				ts.Setenv("FOUND", found[1])
			}
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("no %s in\n%s", args[0], out)
		}
	}
}
