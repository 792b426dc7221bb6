package gateway

import (
	"context"
	"fmt"
	"slices"
	"time"

	"weir/internal/ledger"
	"weir/schemas/money"
)

// The periods that spending is limited in, and the index of each.
const (
	day = iota
	month
	numPeriods
)

const secondsPerDay = 24 * 60 * 60

// periods numbers a UTC day and month: days since 1970, and months since year 0.
type periods [numPeriods]int64

func periodsOf(t time.Time) periods {
	y, m, _ := t.UTC().Date()
	return periods{t.Unix() / secondsPerDay, int64(y)*12 + int64(m) - 1}
}

// name is the period's in the ledger.
func (p periods) name(which int) string {
	if which == day {
		return "day:" + time.Unix(p[day]*secondsPerDay, 0).UTC().Format(time.DateOnly)
	}
	return "month:" + p.firstOf(p[month]).Format("2006-01")
}

func (periods) firstOf(m int64) time.Time {
	return time.Date(int(m/12), time.Month(m%12+1), 1, 0, 0, 0, 0, time.UTC)
}

// end is when the period is over.
func (p periods) end(which int) time.Time {
	if which == day {
		return time.Unix((p[day]+1)*secondsPerDay, 0).UTC()
	}
	return p.firstOf(p[month] + 1)
}

// spending is what a key or customer with a spend limit has spent.
//
// The ledger's figure lags behind by what this gateway has recorded and the
// ledger has not settled, so those events are kept, by lease and seq, until the
// ledger says of their lease that it is settled past them. Figure and seqs are
// read at one instant: an event is counted once at any time, however long the
// ledger is away, and the sum is exact where there is one gateway.
type spending struct {
	now       periods
	settled   [numPeriods]money.Nano // in the ledger at the last reading
	unsettled []unsettled
	own       [numPeriods]money.Nano // sums of unsettled
	// part is this gateway's of the limit. Of several gateways each begins anew
	// when their number changes, as it does when it first reads.
	part     [numPeriods]part
	reserved money.Nano // by calls under way; they count in any period, as they may end in it
	// before bounds what an earlier process of this gateway recorded and the
	// ledger had not settled: what those leases still held at the last reading.
	// It is gone once the spool it left is settled, seconds after a start.
	before money.Nano
}

// part is what a gateway may spend of a limit in a period: what base leaves of
// it, divided by the gateways. It does not grow when others settle less than
// theirs: what they have not settled nobody else knows, and the parts of all
// sum up to the limit only if none is counted again.
type part struct {
	gateways int64
	base     money.Nano // settled when the part began
	used     money.Nano // recorded here since, and what was unsettled then
}

// unsettled is one event's part of a spending.
type unsettled struct {
	lease string
	seq   uint64
	in    periods
	price money.Nano
}

func (s *spending) add(u unsettled) {
	s.unsettled = append(s.unsettled, u)
	s.turn(u.in)
	for p := range numPeriods {
		if u.in[p] == s.now[p] {
			s.own[p] += u.price
			s.part[p].used += u.price
		}
	}
}

// turn moves to the periods of a time. Nothing of a new one is settled: what is
// recorded in it is unsettled until the next reading.
func (s *spending) turn(to periods) {
	for p := range numPeriods {
		if to[p] <= s.now[p] {
			continue
		}
		s.now[p], s.settled[p] = to[p], 0
		s.sum(p)
		s.part[p].base, s.part[p].used = 0, s.own[p]
	}
}

func (s *spending) sum(p int) {
	s.own[p] = 0
	for i := range s.unsettled {
		if s.unsettled[i].in[p] == s.now[p] {
			s.own[p] += s.unsettled[i].price
		}
	}
}

// take adopts a reading of the periods at, made by one of so many gateways. Events of a later day were settled
// into one that was not read, and stay.
func (s *spending) take(scope string, at periods, read *ledger.Spends, before money.Nano, gateways int64) {
	s.turn(at)
	s.before = before
	s.unsettled = slices.DeleteFunc(s.unsettled, func(u unsettled) bool {
		return u.in[day] <= at[day] && (u.seq <= read.Leases[u.lease].Settled || u.in[month] < at[month])
	})
	for p := range numPeriods {
		if s.now[p] == at[p] {
			s.settled[p] = read.Spent[ledger.SpendOf{Scope: scope, Period: at.name(p)}]
		}
		s.sum(p)
		if s.part[p].gateways != gateways {
			s.part[p] = part{gateways, s.settled[p], s.own[p]}
		}
	}
}

// left is what may still be spent here in a period: of this gateway's part, and
// never more than the ledger and what is unsettled here leave.
func (l *limits) left(limit money.Nano, s *spending, p int) money.Nano {
	of := &s.part[p]
	left := min((limit-of.base)/money.Nano(of.gateways)-of.used, limit-s.settled[p]-s.own[p])
	return left - s.before - s.reserved
}

// overspent refuses a call whose bound is more than may be spent. Where only
// calls under way, or what is still being settled after a start, are in its
// way, it may fit in a moment; otherwise not before the period ends. The lock
// is held.
func (l *limits) overspent(k *check, p int, limit, need money.Nano) *refusal {
	const longestWait = 24 * time.Hour // a month's end is too far away to be waited for
	period := [...]string{day: "day", month: "month"}[p]
	message := fmt.Sprintf("This %s may spend $%s a %s: $%s is spent and $%s reserved by requests in flight. This request needs up to $%s.",
		k.whose, limit, period, k.spend.settled[p]+k.spend.own[p], k.spend.reserved, need)
	end := k.spend.now.end(p)
	left := l.left(limit, k.spend, p)
	wait := min(end.Sub(k.now), longestWait)
	switch {
	case need <= left+k.spend.reserved:
		wait = time.Second
	case need <= left+k.spend.reserved+k.spend.before:
		wait = beatEvery
	}
	return rateLimited("spend_per_"+period, message, end, wholeSeconds(wait))
}

// lockKnown finds who's tallies with their spending known where it is limited,
// read from the ledger at its first use. It returns with the lock held, unless
// it fails.
func (l *limits) lockKnown(who identity) (found [2]*tally, err error) {
	for {
		l.mu.Lock()
		found = l.tallies(who)
		if len(unknown(found, who)) == 0 {
			return found, nil
		}
		l.mu.Unlock()
		if err := l.learn(who); err != nil {
			return found, err
		}
	}
}

// unknown lists the tallies whose spending is limited and not read yet. The
// lock is held.
func unknown(found [2]*tally, who identity) (list []*tally) {
	for i, t := range found {
		if limits := who.limits(i); t != nil && t.spend == nil && (limits.SpendPerDay > 0 || limits.SpendPerMonth > 0) {
			list = append(list, t)
		}
	}
	return list
}

// learn reads what is unknown. Of several that want to know one asks, and the
// others wait.
func (l *limits) learn(who identity) error {
	l.reading.Lock()
	defer l.reading.Unlock()
	l.mu.Lock()
	list := unknown(l.tallies(who), who)
	l.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), lookupTimeout)
	defer cancel()
	return l.read(ctx, list)
}

// read asks the ledger what the tallies have spent. l.reading is held.
func (l *limits) read(ctx context.Context, list []*tally) error {
	if len(list) == 0 {
		return nil
	}
	at := periodsOf(l.now())
	var scopes, leases []string
	seen := map[string]bool{}
	l.mu.Lock()
	for lease := range l.earlier {
		leases = append(leases, lease)
	}
	for _, t := range list {
		scopes = append(scopes, t.scope)
		if t.spend == nil {
			continue
		}
		for i := range t.spend.unsettled {
			if lease := t.spend.unsettled[i].lease; !seen[lease] {
				seen[lease] = true
				leases = append(leases, lease)
			}
		}
	}
	l.mu.Unlock()
	read, err := l.db.Spends(ctx, scopes, []string{at.name(day), at.name(month)}, leases)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range list {
		if t.spend == nil {
			t.spend = &spending{}
		}
		t.spend.take(t.scope, at, &read, l.before(t, &read), l.gateways)
	}
	for lease := range l.earlier {
		if !read.Leases[lease].Held {
			delete(l.earlier, lease)
		}
	}
	return nil
}

// before sums what leases of an earlier process still hold, as far as the
// tally's spending may be in them. The lock is held.
func (l *limits) before(t *tally, read *ledger.Spends) (sum money.Nano) {
	for lease, customer := range l.earlier {
		if t.customer == "" || t.customer == customer {
			sum += read.Leases[lease].Rest
		}
	}
	return sum
}
