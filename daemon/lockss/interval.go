package lockss

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

const (
	day  = 24 * time.Hour
	week = 7 * day
	year = 365 * day
)

var intervalUnits = []struct {
	name string
	d    time.Duration
}{
	{"y", year}, {"w", week}, {"d", day}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}, {"ms", time.Millisecond},
}

// ParseInterval reads an interval of the configuration: an integer and a unit of
// ms, s, m, h, d, w or y (365 d) in any case; without a unit it is milliseconds.
func ParseInterval(s string) (time.Duration, error) {
	t := strings.ToLower(strings.TrimSpace(s))
	digits := strings.TrimRight(t, "abcdefghijklmnopqrstuvwxyz")
	unit := time.Millisecond
	if name := t[len(digits):]; name != "" {
		unit = 0
		for _, u := range intervalUnits {
			if u.name == name {
				unit = u.d
			}
		}
	}
	n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
	if err != nil || unit == 0 {
		return 0, fmt.Errorf("interval %q: want an integer and one of ms s m h d w y", s)
	}
	if n > math.MaxInt64/int64(unit) || n < math.MinInt64/int64(unit) {
		return 0, fmt.Errorf("interval %q: longer than 292 years", s)
	}
	return time.Duration(n) * unit, nil
}

// FormatInterval writes d for ParseInterval, in the largest unit that leaves an integer.
// Fractions of a millisecond are cut off.
func FormatInterval(d time.Duration) string {
	d = d.Truncate(time.Millisecond)
	if d == 0 {
		return "0"
	}
	for _, u := range intervalUnits {
		if d%u.d == 0 {
			return strconv.FormatInt(int64(d/u.d), 10) + u.name
		}
	}
	return "0"
}

// Rate is a limit of so many events in any stretch of time. The zero Rate is no limit.
type Rate struct {
	Events int
	Per    time.Duration
}

// ParseRate reads "events/interval" ("50/1d", "1/6s", "400/100") or "unlimited".
func ParseRate(s string) (Rate, error) {
	t := strings.TrimSpace(s)
	if strings.EqualFold(t, "unlimited") {
		return Rate{}, nil
	}
	events, per, ok := strings.Cut(t, "/")
	if !ok {
		return Rate{}, fmt.Errorf("rate %q: want events/interval or unlimited", s)
	}
	n, err := strconv.Atoi(strings.TrimSpace(events))
	if err != nil || n <= 0 {
		return Rate{}, fmt.Errorf("rate %q: want a number of events above 0", s)
	}
	d, err := ParseInterval(per)
	if err != nil {
		return Rate{}, fmt.Errorf("rate %q: %w", s, err)
	}
	if d <= 0 {
		return Rate{}, fmt.Errorf("rate %q: want an interval above 0", s)
	}
	return Rate{Events: n, Per: d}, nil
}

// Unlimited says whether r sets no limit.
func (r Rate) Unlimited() bool { return r.Events == 0 }

// String writes r for ParseRate.
func (r Rate) String() string {
	if r.Unlimited() {
		return "unlimited"
	}
	return strconv.Itoa(r.Events) + "/" + FormatInterval(r.Per)
}
