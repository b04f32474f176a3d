package plugin

import (
	"fmt"
	"strconv"
	"strings"
)

// A Verdict says whether a URL belongs to an AU (plugins.md 8).
type Verdict int

// Excluded is the zero value: what no rule includes is not collected.
const (
	Excluded      Verdict = iota
	Included              // a crawl rule, or the lack of any
	IncludedStart         // a start or permission page that the rules alone would exclude
)

func (v Verdict) String() string {
	switch v {
	case Included:
		return "included"
	case IncludedStart:
		return "included as start page"
	}
	return "excluded"
}

// A Rule is a crawl rule after substitution.
type Rule struct {
	Action  int    // plugins.md 8.1
	Pattern string // regular expression
	Range   string // "min-max" that group 1 must lie in, or ""

	re         *pattern
	cond       *cond
	ignoreCase bool
}

// matches says whether the pattern is found and the range holds.
func (r *Rule) matches(url string) bool {
	if r.cond == nil {
		return r.re.match(url)
	}
	m := r.re.re.FindStringSubmatch(url)
	if len(m) < 2 {
		return false
	}
	g := m[1]
	if r.cond.num {
		n, err := strconv.ParseInt(g, 10, 64)
		return err == nil && r.cond.min <= n && n <= r.cond.max
	}
	if r.ignoreCase {
		g = strings.ToLower(g)
	}
	return compareText(r.cond.lo, g) <= 0 && compareText(g, r.cond.hi) <= 0
}

// decide gives +1 for include, -1 for exclude, 0 for nothing said.
func (r *Rule) decide(url string) int {
	type effect struct{ match, other int }
	e := map[int]effect{1: {1, 0}, 2: {-1, 0}, 3: {0, 1}, 4: {0, -1}, 5: {1, -1}, 6: {-1, 1}}[r.Action]
	if r.matches(url) {
		return e.match
	}
	return e.other
}

func newRule(action int, re string, conds []cond, ignoreCase bool) (*Rule, error) {
	p, err := compilePattern(re, ignoreCase)
	if err != nil {
		return nil, err
	}
	r := &Rule{Action: action, Pattern: re, re: p, ignoreCase: ignoreCase}
	switch len(conds) {
	case 0:
		return r, nil
	case 1:
		r.cond = &conds[0]
		if r.cond.num {
			r.Range = fmt.Sprintf("%d-%d", r.cond.min, r.cond.max)
		} else {
			r.Range = r.cond.lo + "-" + r.cond.hi
		}
		return r, nil
	}
	return nil, &PatternError{re, fmt.Errorf("a crawl rule may have one range, not %d", len(conds))}
}
