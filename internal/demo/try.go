package demo

import "cmp"

// tryNext prints commands that work as they stand while the demo serves.
func (d *demo) tryNext() {
	program := cmp.Or(d.Program, "weir")
	busiest := &d.customers[0]
	d.printf("\nTry next; each line works when pasted into another terminal:\n\n")
	d.printf("# a request of %s, paid from its wallet: see the X-Weir headers\n"+
		"curl -si http://%s/openai/v1/chat/completions -H 'Authorization: Bearer %s' -d '{\"model\":\"gpt-4o\",\"messages\":[{\"role\":\"user\",\"content\":\"Hello, weir\"}]}'\n",
		busiest.id, d.at.Data, busiest.key)
	d.printf("# its wallet, through the control plane\n"+
		"curl -s %s/api/v1/customers/%s/wallet -H 'Authorization: Bearer %s'\n", d.books.control, busiest.id, d.books.token)
	if d.books.sql != "" {
		d.printf("# any question, in SQL\n"+
			"curl -s -u weir_reader:%s %s --data-binary \"SELECT tags['feature'] AS feature, count() AS n, sum(margin) AS margin FROM weir.usage_events GROUP BY feature ORDER BY margin DESC FORMAT PrettyCompact\"\n",
			d.books.password, d.books.sql)
	}
	d.printf("# the same from the command line, and the margin after the fees of payments\n"+
		"%[1]s report margin --by customer,model --data_dir %[2]s\n%[1]s report margin --by customer --net --data_dir %[2]s\n"+
		"%[1]s tieout --data_dir %[2]s\n", program, d.dataDir())
	d.printf("# a page on which it pays: open it in a browser, card number 4242 4242 4242 4242, and look at the wallet after\n"+
		"%[1]s wallet checkout %[3]s 25.00 --success-url %[4]s --data_dir %[2]s\n%[1]s wallet topups %[3]s --data_dir %[2]s\n",
		program, d.dataDir(), busiest.id, d.stripe.url+backPage)
	d.printf("\nServing until Ctrl-C.\n")
}
