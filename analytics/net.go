package analytics

import (
	"cmp"
	"context"
	"errors"
	"math/big"
	"slices"
	"strings"

	"weir/internal/ledger"
	"weir/schemas/money"
)

// netRow is a group of the margin report with its share of the fees of the
// payments that funded it.
type netRow struct {
	names   []string
	figures []figure
	fees    money.Nano
}

// netMargin is the margin after payment fees. A customer's fees are spread
// evenly over the money that its payments and credits brought, so each group
// bears price × fees ÷ funded of its customer, rounded once per customer and
// group, half away from zero.
func (a *Analytics) netMargin(ctx context.Context, by []string, when span) (any, error) {
	fees, err := a.Ledger.FundingFees(ctx)
	if err != nil {
		return nil, err
	}
	inner, payer := by, slices.Index(by, "customer")
	if payer < 0 {
		inner, payer = append(slices.Clone(by), "customer"), len(by)
	}
	groups := map[string]*netRow{}
	sum := netRow{figures: make([]figure, len(marginReport.measures))}
	text, args := marginReport.statement(inner, when)
	err = a.each(ctx, text, args, func(scan func(...any) error) error {
		names, figures, err := marginReport.scan(scan, len(inner))
		if err != nil {
			return err
		}
		share, err := feeShare(amountIn(figures, "price"), fees[names[payer]])
		if err != nil {
			return err
		}
		key := strings.Join(names[:len(by)], "\x00")
		g := groups[key]
		if g == nil {
			g = &netRow{names: names[:len(by)], figures: make([]figure, len(figures))}
			groups[key] = g
		}
		return errors.Join(g.add(figures, share), sum.add(figures, share))
	})
	if err != nil {
		return nil, err
	}
	list := make([]*netRow, 0, len(groups))
	for _, g := range groups {
		list = append(list, g)
	}
	slices.SortFunc(list, func(a, b *netRow) int {
		return cmp.Or(cmp.Compare(b.net(), a.net()), slices.Compare(a.names, b.names))
	})
	rows := []row{}
	for _, g := range list[:min(len(list), rowsMax)] {
		rows = append(rows, g.row(by))
	}
	fresh, err := a.freshTo(ctx)
	return map[string]any{"rows": rows, "totals": sum.row(nil), "truncated": len(list) > rowsMax, "fresh_to": fresh}, err
}

func (n *netRow) add(figures []figure, fees money.Nano) error {
	sum, ok := n.fees.Add(fees)
	if !ok {
		return errSum
	}
	n.fees = sum
	return add(n.figures, figures)
}

// net is the margin without the fees.
func (n *netRow) net() money.Nano { return amountIn(n.figures, "margin") - n.fees }

func (n *netRow) row(by []string) row {
	return append(marginReport.row(by, n.names, n.figures), member{"fees", n.fees}, member{"net", n.net()})
}

// amountIn finds an amount of the margin report by its name.
func amountIn(figures []figure, name string) money.Nano {
	i := slices.IndexFunc(marginReport.measures, func(m measure) bool { return m.name == name })
	return figures[i].amount.Nano
}

// feeShare is price × fees ÷ funded, 0 for a customer without funding.
func feeShare(price money.Nano, f ledger.FundingFees) (money.Nano, error) {
	if f.Funded <= 0 || f.Fees == 0 {
		return 0, nil
	}
	n := new(big.Int).Mul(big.NewInt(int64(price)), big.NewInt(int64(f.Fees)))
	d := big.NewInt(int64(f.Funded))
	// Half away from zero: (2·|n| + d) ÷ 2d under n's sign.
	sign := n.Sign()
	n.Abs(n).Lsh(n, 1).Add(n, d).Quo(n, d.Lsh(d, 1))
	if sign < 0 {
		n.Neg(n)
	}
	if !n.IsInt64() {
		return 0, errSum
	}
	return money.Nano(n.Int64()), nil
}
