package peer

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"armarium/daemon/lockss"
)

// Type is a kind of agreement (lcap-v3.md 15.1).
type Type string

// The types this node writes. Those with the prefix W_ (weighted) are kept when they are in a
// file but never written anew: a 1.x node without them cannot read such a file.
const (
	POR             Type = "POR"                // we as poller, whole unit
	POP             Type = "POP"                // we as poller, sampled poll
	SymmetricPOR    Type = "SYMMETRIC_POR"      // we as voter, of the poller
	SymmetricPOP    Type = "SYMMETRIC_POP"      // the same, sampled poll
	PORHint         Type = "POR_HINT"           // what the poller measured of us
	POPHint         Type = "POP_HINT"           // the same, sampled poll
	SymmetricPORHnt Type = "SYMMETRIC_POR_HINT" // in files only
	SymmetricPOPHnt Type = "SYMMETRIC_POP_HINT" // in files only
)

// typeOrder is the order of entries in a file.
var typeOrder = []Type{POR, POP, SymmetricPOR, SymmetricPOP, PORHint, POPHint, SymmetricPORHnt, SymmetricPOPHnt}

// measured are the types that give a peer rights.
var measured = []Type{POR, SymmetricPOR, POP, SymmetricPOP}

// Agreement is one record. Percent and Highest are 0 to 1, or -1 for none.
type Agreement struct {
	Percent     float32   `json:"percent"`
	Time        time.Time `json:"time"`
	Highest     float32   `json:"highest"`
	HighestTime time.Time `json:"highestTime"`
}

// signal returns the record after a new measurement: the highest value is the true maximum
// (repository.md 8.3; 1.x lets it sink).
func (a Agreement) signal(v float32, now time.Time) Agreement {
	a.Percent, a.Time = v, now
	if v > a.Highest {
		a.Highest, a.HighestTime = v, now
	}
	return a
}

var noAgreement = Agreement{Percent: -1, Highest: -1}

// agreementFile is the name of the records of one unit.
const agreementFile = "#id_agreement.xml"

// maxStateFile bounds what is read of a state file, in bytes.
const maxStateFile = 64 << 20

// A FileError names a state file of a unit that could not be read.
type FileError struct {
	AU    lockss.AUID
	Name  string // of the state file
	Aside string // name under which its bytes were kept, "" if they are still in place
	Err   error
}

func (e *FileError) Error() string {
	s := fmt.Sprintf("%s of %s: %v", e.Name, e.AU, e.Err)
	if e.Aside != "" {
		s += "; its bytes are kept as " + e.Aside + ", agreement with other nodes starts anew"
	}
	return s
}

func (e *FileError) Unwrap() error { return e.Err }

// element is a node of an XML state file. Files are object dumps: an element has either
// children or text. Elements that this version does not know survive a rewrite.
type element struct {
	name     string
	attrs    []xml.Attr
	text     string
	children []*element
}

func (e *element) child(name string) *element {
	for _, c := range e.children {
		if c.name == name {
			return c
		}
	}
	return nil
}

func (e *element) value(name string) string {
	if c := e.child(name); c != nil {
		return strings.TrimSpace(c.text)
	}
	return ""
}

func (e *element) set(name, text string) {
	c := e.child(name)
	if c == nil {
		c = &element{name: name}
		e.children = append(e.children, c)
	}
	c.text, c.children = text, nil
}

func (e *element) float(name string, missing float32) float32 {
	if f, err := strconv.ParseFloat(e.value(name), 32); err == nil && !math.IsNaN(f) {
		return float32(f)
	}
	return missing
}

func (e *element) time(name string) time.Time {
	ms, err := strconv.ParseInt(e.value(name), 10, 64)
	if err != nil || ms <= 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

// maxDepth bounds the nesting of a state file.
const maxDepth = 64

// parseXML reads a state file.
func parseXML(b []byte) (*element, error) {
	d := xml.NewDecoder(bytes.NewReader(b))
	d.CharsetReader = func(_ string, r io.Reader) (io.Reader, error) { return r, nil }
	var root *element
	var open []*element
	for {
		t, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		switch t := t.(type) {
		case xml.StartElement:
			if len(open) >= maxDepth {
				return nil, errors.New("elements nested too deep")
			}
			e := &element{name: t.Name.Local, attrs: slices.Clone(t.Attr)}
			switch {
			case len(open) > 0:
				p := open[len(open)-1]
				p.children = append(p.children, e)
			case root != nil:
				return nil, errors.New("second root element " + e.name)
			default:
				root = e
			}
			open = append(open, e)
		case xml.EndElement:
			open = open[:len(open)-1]
		case xml.CharData:
			if len(open) > 0 {
				open[len(open)-1].text += string(t)
			}
		}
	}
	if root == nil {
		return nil, errors.New("no root element")
	}
	return root, nil
}

var escaper = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;", "'", "&apos;", "\r", "&#xd;")

// append writes the element as 1.x does: two spaces for each level, no declaration, no line
// feed at the end.
func (e *element) append(b []byte, indent int) []byte {
	b = append(b, strings.Repeat("  ", indent)...)
	b = append(b, '<')
	b = append(b, e.name...)
	for _, a := range e.attrs {
		b = append(b, ' ')
		b = append(b, a.Name.Local...)
		b = append(b, `="`...)
		b = append(b, escaper.Replace(a.Value)...)
		b = append(b, '"')
	}
	switch {
	case len(e.children) > 0:
		b = append(b, '>')
		for _, c := range e.children {
			b = append(b, '\n')
			b = c.append(b, indent+1)
		}
		b = append(b, '\n')
		b = append(b, strings.Repeat("  ", indent)...)
	case strings.TrimSpace(e.text) == "" && strings.Contains(e.text, "\n") || e.text == "":
		return append(b, "/>"...)
	default:
		b = append(b, '>')
		b = append(b, escaper.Replace(e.text)...)
	}
	b = append(b, "</"...)
	b = append(b, e.name...)
	return append(b, '>')
}

// Names of elements of #id_agreement.xml.
const (
	elemRoot   = "org.lockss.protocol.AuAgreements"
	elemPeer   = "org.lockss.protocol.PeerAgreements"
	elemType   = "org.lockss.protocol.AgreementType"
	elemRecord = "org.lockss.protocol.PeerAgreement"
)

// agreements are the records of one unit. The tree is the truth; the map is its index.
type agreements struct {
	root  *element
	list  *element
	peers map[lockss.PeerID]*element // elemPeer
}

func newAgreements() *agreements {
	list := &element{name: "list"}
	return &agreements{
		root:  &element{name: elemRoot, children: []*element{list}},
		list:  list,
		peers: map[lockss.PeerID]*element{},
	}
}

// parseAgreements reads #id_agreement.xml. Peers whose identity is malformed are dropped. A file
// from before 1.62 (root "list") gives the same records; old reports that.
func parseAgreements(b []byte) (a *agreements, old bool, err error) {
	root, err := parseXML(b)
	if err != nil {
		return nil, false, err
	}
	a = newAgreements()
	switch root.name {
	case elemRoot:
		a.root = root
		if a.list = root.child("list"); a.list == nil {
			a.list = &element{name: "list"}
			root.children = append(root.children, a.list)
		}
		kept := a.list.children[:0]
		for _, e := range a.list.children {
			if e.name == elemPeer {
				id, err := lockss.ParsePeerID(e.value("id"))
				if err != nil || a.peers[id] != nil {
					continue
				}
				a.peers[id] = e
			}
			kept = append(kept, e)
		}
		a.list.children = kept
		return a, false, nil
	case "list":
		for _, e := range root.children {
			id, err := lockss.ParsePeerID(e.value("id"))
			if err != nil {
				continue
			}
			at := e.time("lastAgree")
			if t := e.time("lastDisagree"); t.After(at) {
				at = t
			}
			for _, f := range []struct {
				t            Type
				cur, highest string
			}{
				{POR, "percentAgreement", "highestPercentAgreement"},
				{PORHint, "percentAgreementHint", "highestPercentAgreementHint"},
			} {
				r := Agreement{Percent: e.float(f.cur, -1), Highest: e.float(f.highest, -1)}
				if r.Percent < 0 && r.Highest < 0 {
					continue
				}
				r.Highest = max(r.Highest, r.Percent)
				r.Time, r.HighestTime = at, at
				a.put(id, f.t, r)
			}
		}
		return a, true, nil
	}
	return nil, false, fmt.Errorf("root element is %s, want %s", root.name, elemRoot)
}

func (a *agreements) bytes() []byte { return a.root.append(nil, 0) }

// entry finds the entry of a type, nil if there is none.
func entry(p *element, t Type) *element {
	m := p.child("map")
	if m == nil {
		return nil
	}
	for _, e := range m.children {
		if e.value(elemType) == string(t) {
			return e.child(elemRecord)
		}
	}
	return nil
}

func (a *agreements) get(id lockss.PeerID, t Type) (Agreement, bool) {
	p := a.peers[id]
	if p == nil {
		return noAgreement, false
	}
	r := entry(p, t)
	if r == nil {
		return noAgreement, false
	}
	return Agreement{
		Percent:     r.float("percentAgreement", -1),
		Time:        r.time("percentAgreementTime"),
		Highest:     r.float("highestPercentAgreement", -1),
		HighestTime: r.time("highestPercentAgreementTime"),
	}, true
}

func (a *agreements) put(id lockss.PeerID, t Type, r Agreement) {
	p := a.peers[id]
	if p == nil {
		p = &element{name: elemPeer}
		p.set("id", string(id))
		a.list.children = append(a.list.children, p)
		a.peers[id] = p
	}
	m := p.child("map")
	if m == nil {
		m = &element{name: "map", attrs: []xml.Attr{{Name: xml.Name{Local: "enum-type"}, Value: elemType}}}
		p.children = append(p.children, m)
	}
	rec := entry(p, t)
	if rec == nil {
		rec = &element{name: elemRecord}
		e := &element{name: "entry", children: []*element{{name: elemType, text: string(t)}, rec}}
		at := len(m.children)
		for i, c := range m.children {
			if o := slices.Index(typeOrder, Type(c.value(elemType))); o < 0 || o > slices.Index(typeOrder, t) {
				at = i
				break
			}
		}
		m.children = slices.Insert(m.children, at, e)
	}
	rec.set("percentAgreement", javaFloat(r.Percent))
	rec.set("percentAgreementTime", javaTime(r.Time))
	rec.set("highestPercentAgreement", javaFloat(r.Highest))
	rec.set("highestPercentAgreementTime", javaTime(r.HighestTime))
}

func javaTime(t time.Time) string {
	if t.IsZero() {
		return "0"
	}
	return strconv.FormatInt(t.UnixMilli(), 10)
}

// javaFloat writes a float as Java does: at least one decimal, an exponent below 0.001.
func javaFloat(f float32) string {
	if a := math.Abs(float64(f)); a != 0 && (a < 1e-3 || a >= 1e7) {
		m, e, _ := strings.Cut(strconv.FormatFloat(float64(f), 'E', -1, 32), "E")
		if !strings.Contains(m, ".") {
			m += ".0"
		}
		n, _ := strconv.Atoi(e)
		return m + "E" + strconv.Itoa(n)
	}
	s := strconv.FormatFloat(float64(f), 'f', -1, 32)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}
