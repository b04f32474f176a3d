package poll

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"armarium/daemon/lockss"
)

// schedule decides which unit is polled when (lcap-v3.md 16). It is pure: what it needs to know
// of a unit comes in a Unit.
type schedule struct {
	Params
	byAgreement lockss.Curve
	results     map[int]bool // last results for which byAgreement counts
	byRisk      lockss.Curve // interval at the number of peers at risk
	weightRisk  lockss.Curve
}

func newSchedule(p Params) (schedule, error) {
	s := schedule{Params: p, results: map[int]bool{}}
	for _, c := range []struct {
		name, text string
		curve      *lockss.Curve
	}{
		{"pollIntervalAgreementCurve", p.PollIntervalCurve, &s.byAgreement},
		{"pollIntervalAtRiskPeersCurve", p.PollIntervalAtRisk, &s.byRisk},
		{"pollWeightAtRiskPeersCurve", p.PollWeightAtRisk, &s.weightRisk},
	} {
		if strings.TrimSpace(c.text) == "" {
			continue
		}
		var err error
		if *c.curve, err = lockss.ParseCurve(c.text); err != nil {
			return s, fmt.Errorf("org.lockss.poll.v3.%s: %w", c.name, err)
		}
	}
	for _, t := range p.PollIntervalLastResult {
		i := slices.IndexFunc(stateNames[:], func(n string) bool { return strings.EqualFold(n, strings.TrimSpace(t)) })
		if i < 0 {
			if _, err := fmt.Sscanf(t, "%d", &i); err != nil {
				return s, fmt.Errorf("org.lockss.poll.v3.pollIntervalAgreementLastResult: %q is no poll result", t)
			}
		}
		s.results[i] = true
	}
	return s, nil
}

// interval returns how long after the last complete poll the next is due. atRisk is the number of
// peers at risk listed with the unit, listed whether it is listed at all.
func (s *schedule) interval(u Unit, atRisk int, listed bool) time.Duration {
	d := s.PollInterval
	if s.PollIntervalCurve != "" && s.results[u.LastPollResult] && u.Agreement >= 0 {
		d = time.Duration(s.byAgreement.At(math.Round(100*u.Agreement))) * time.Millisecond
	}
	if s.PollIntervalAtRisk != "" && listed {
		if r := time.Duration(s.byRisk.At(float64(atRisk))) * time.Millisecond; r >= 0 {
			d = min(d, r)
		}
	}
	return d
}

// eligible reports whether a poll on a unit may be called now, and if not, why.
func (s *schedule) eligible(u Unit, now time.Time, manual bool) (bool, string) {
	switch {
	case strings.EqualFold(s.AutoPollClasses, "Internal") && !u.Internal,
		strings.EqualFold(s.AutoPollClasses, "Priority") && u.Priority <= 1:
		if !manual {
			return false, "polls of its class are switched off"
		}
	}
	if manual {
		return true, ""
	}
	switch {
	case u.NoPoll:
		return false, "flagged not to be polled"
	case !u.Crawled && !u.PublisherDown:
		return false, "not crawled yet"
	case !u.LastAttempt.IsZero() && now.Sub(u.LastAttempt) < s.MinAttemptInterval:
		return false, "polled a short while ago"
	}
	return true, ""
}

// weight returns the weight of a unit in the queue; 0: not due.
func (s *schedule) weight(u Unit, now time.Time, atRisk int, listed bool) float64 {
	interval := s.interval(u, atRisk, listed)
	last := u.LastPoll
	if last.IsZero() {
		last = time.UnixMilli(0)
	}
	if last.Add(interval).After(now) {
		return 0
	}
	w := float64(now.Sub(last)) / max(float64(interval+u.PollDuration), 1)
	if s.PollWeightAtRisk != "" && listed {
		w *= s.weightRisk.At(float64(atRisk))
	}
	if u.Priority > 0 {
		w *= u.Priority
	}
	return w
}

// variant chooses the kind of poll (lcap-v3.md 16.5); ok is false if it is too early for any.
func (s *schedule) variant(u Unit, now time.Time, repairers int, manual bool) (v Variant, ok bool) {
	lastAny := u.LastPoll
	if u.LastPoP.After(lastAny) {
		lastAny = u.LastPoP
	}
	if !manual && !lastAny.IsZero() && now.Sub(lastAny) < s.MinTimeBetweenPolls {
		return "", false
	}
	pop := s.EnablePoP && s.Modulus > 0 && !u.Internal
	switch {
	case manual || !pop:
		return PoR, true
	case s.AllPoP:
		return PoP, true
	case u.SuspectVersions > 0, u.LastPoll.IsZero(),
		now.Sub(u.LastPoll) > s.PollInterval*time.Duration(s.MaxDelayBetweenPoR),
		u.LastContentChange.After(u.LastPoll), u.AgreeingPeers < s.MinAgreePeersLastPoR:
		return PoR, true
	case repairers < s.RepairerThreshold:
		return PoP, true
	}
	return PoR, true
}

// chooseUnits takes up to n units at random by weight.
func chooseUnits(weights map[lockss.AUID]float64, n int, r *rand.Rand) []lockss.AUID {
	var ids []lockss.AUID
	total := 0.0
	for id, w := range weights {
		if w > 0 {
			ids = append(ids, id)
			total += w
		}
	}
	slices.Sort(ids)
	var out []lockss.AUID
	for len(out) < n && len(ids) > 0 {
		x, i := r.Float64()*total, 0
		for ; i < len(ids)-1 && x >= weights[ids[i]]; i++ {
			x -= weights[ids[i]]
		}
		out = append(out, ids[i])
		total -= weights[ids[i]]
		ids = slices.Delete(ids, i, i+1)
	}
	return out
}

// average returns the new average duration of polls (lcap-v3.md 16.6).
func average(old, d time.Duration) time.Duration {
	if old <= 0 {
		return d
	}
	return (old + d + time.Millisecond) / 2
}
