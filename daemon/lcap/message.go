// Package lcap reads and writes the bytes of LCAP V3, the protocol of audit and repair
// between peers (lcap-v3.md): frames of a stream, messages, vote blocks. It does no I/O of its
// own and decides nothing; [transport] moves the bytes and [poll] gives them meaning.
//
//	stream    frames: FF, operation, length (8), protocol number (4), payload    frame.go
//	payload   one message: header, properties, vote blocks or repair data        message.go
//	block     one URL with the digests of its versions                           voteblock.go
//
// All integers are big-endian. Property lists are those of package javaprops.
//
// Reading is lax where 1.x is: unknown properties, bad numbers, odd counts are passed over.
// It is strict where 1.x is (signature, digest, escapes, Base64) and limits every length
// before memory is taken. What cannot be read gives an error and never a panic. Writing is
// strict: what a peer could stumble over is refused.
package lcap

import (
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"armarium/daemon/javaprops"
	"armarium/daemon/lockss"
)

// Opcode is the kind of a message (lcap-v3.md 4.6).
type Opcode int

// The messages of a poll; P is the poller, V a voter.
const (
	OpPoll              Opcode = 10 + iota // P to V: invitation
	OpPollAck                              // V to P: accepts (with nonce) or declines (with NAK)
	OpPollProof                            // P to V
	OpNominate                             // V to P: other peers worth inviting
	OpVoteRequest                          // P to V
	OpVote                                 // V to P: vote blocks, or a NAK
	OpRepairReq                            // P to V: wants the content of a URL
	OpRepairRep                            // V to P: content and headers
	OpEvaluationReceipt                    // P to V: measured agreement
	OpNoOp                                 // ignored
)

// opNone is how a message without a readable opcode reads.
const opNone Opcode = -1

var opNames = [...]string{"Poll", "PollAck", "PollProof", "Nominate", "VoteRequest", "Vote", "RepairReq", "RepairRep", "EvaluationReceipt", "NoOp"}

// String returns the name of the message: "VoteRequest".
func (o Opcode) String() string {
	if OpPoll <= o && o <= OpNoOp {
		return opNames[o-OpPoll]
	}
	return "Opcode(" + strconv.Itoa(int(o)) + ")"
}

// NAK is the reason why a peer does not vote (lcap-v3.md 4.7); "" if there is none.
type NAK string

// The reasons. An unknown one reads as NAKUnknown.
const (
	NAKVersionMismatch          NAK = "NAK_VERSION_MISMATCH"           // minor version of the Poll is not mine
	NAKNoAU                     NAK = "NAK_NO_AU"                      // AU not held
	NAKNotReady                 NAK = "NAK_NOT_READY"                  // still starting
	NAKPluginVersionMismatch    NAK = "NAK_PLUGIN_VERSION_MISMATCH"    // PlugVer carries the voter's
	NAKDisabled                 NAK = "NAK_DISABLED"                   // voting switched off
	NAKGroupMismatch            NAK = "NAK_GROUP_MISMATCH"             // no common group
	NAKNoSubstance              NAK = "NAK_NO_SUBSTANCE"               // AU has no substantial content
	NAKNotCrawled               NAK = "NAK_NOT_CRAWLED"                // AU never crawled completely
	NAKTooManyVoters            NAK = "NAK_TOO_MANY_VOTERS"            // too many votes at once
	NAKHaveSufficientRepairers  NAK = "NAK_HAVE_SUFFICIENT_REPAIRERS"  // AU is safe here
	NAKNoTime                   NAK = "NAK_NO_TIME"                    // hash does not fit the schedule
	NAKHashTimeout              NAK = "NAK_HASH_TIMEOUT"               // hash not finished in time
	NAKHashError                NAK = "NAK_HASH_ERROR"                 // hash broke
	NAKInsufficientVoteDuration NAK = "NAK_INSUFFICIENT_VOTE_DURATION" // defined, not sent
	NAKUnknown                  NAK = "NAK_UNKNOWN"                    // anything else
)

var knownNAKs = []NAK{NAKVersionMismatch, NAKNoAU, NAKNotReady, NAKPluginVersionMismatch, NAKDisabled, NAKGroupMismatch,
	NAKNoSubstance, NAKNotCrawled, NAKTooManyVoters, NAKHaveSufficientRepairers, NAKNoTime, NAKHashTimeout, NAKHashError,
	NAKInsufficientVoteDuration, NAKUnknown}

// Text returns the reason as status pages show it.
func (n NAK) Text() string {
	switch n {
	case "":
		return ""
	case NAKVersionMismatch:
		return "Incompatible minor poll version"
	case NAKNoAU:
		return "No AU"
	case NAKNotReady:
		return "Not ready"
	case NAKPluginVersionMismatch:
		return "Plugin Version Mismatch"
	case NAKDisabled:
		return "Disabled"
	case NAKGroupMismatch:
		return "Wrong Group"
	case NAKNoSubstance:
		return "AU has no files containing substantial content"
	case NAKNotCrawled:
		return "Not crawled"
	case NAKTooManyVoters:
		return "Voter Limit"
	case NAKHaveSufficientRepairers:
		return "AU is safe"
	case NAKNoTime:
		return "Too Busy"
	case NAKHashTimeout:
		return "Hash Timeout"
	case NAKHashError:
		return "Hash Error"
	case NAKInsufficientVoteDuration:
		return "Insufficient Vote Duration"
	}
	return "Unknown"
}

// Revisions of the protocol: the minor version byte (lcap-v3.md 4.3).
const (
	Revision5 = 5 // 1.x
	Revision6 = 6 // 2.x: URLs keep a trailing slash
)

// NoAU is the unit of a message that names none.
const NoAU lockss.AUID = "UNKNOWN"

// NoGroup is what a node without groups sends as its groups.
const NoGroup = "nogroup"

// Limits of what is read (lcap-v3.md 20.1). Nominees above the limit are left out; a block
// with more versions, like any undecodable one, spoils the rest of the stream.
const (
	MaxProperties = 16 << 20 // bytes of the properties of a message
	MaxNominees   = 100
	MaxVersions   = 200 // versions of a block
)

// A Message is one LCAP V3 message, decoded. Which fields a kind of message uses stands in
// lcap-v3.md 4.6. Byte strings that were not sent are nil.
type Message struct {
	Opcode Opcode
	Minor  byte // revision; when written, 0 counts as Revision5

	OrigID lockss.PeerID // sender by its own account; the channel's identity is the one to believe (4.5). "" if absent or a V1 identity
	DestID lockss.PeerID // receiver; "" if absent

	Key           string // of the poll
	AU            lockss.AUID
	PlugVer       string        // the sender's poll version of the unit's plugin; "" if absent
	HashAlgorithm string        // "" is written, and absence read, as SHA-1
	Duration      time.Duration // to the poll deadline; whole seconds on the wire, rounded down, never negative
	VoteDuration  time.Duration // to the vote deadline, in Poll; milliseconds on the wire

	PollerNonce, VoterNonce, VoterNonce2 []byte
	SampleNonce, EffortProof             []byte
	Modulus                              int      // > 0 in the Poll message of a sampled poll
	Groups                               []string // nil: absent. None are written as NoGroup
	NAK                                  NAK
	Nominees                             []lockss.PeerID // at most MaxNominees; what is no V3 identity is left out
	URL                                  string          // wanted or delivered
	VoteComplete                         bool

	RepairProps  map[string]string // headers of the delivered URL; nil if absent
	RepairData   []byte            // its bytes; nil if there are none or fewer than announced
	RepairLength int64             // bytes of RepairData announced; set by Decode, not needed by Append

	// Agreement 0..1 in a receipt; -1 is absent. Whoever makes a receipt without a
	// weighted hint has to say -1.
	AgreementHint, WeightedAgreementHint float64

	// Blocks ascend strictly in canonical order. BlocksErr says that something after them
	// was unusable: the voter counts as spoiled from there on (5.3, 5.4).
	Blocks    []VoteBlock
	BlocksErr error
}

// Why a message was refused (lcap-v3.md 4.2). Refusals for its properties wrap
// [*javaprops.SyntaxError], [ErrBase64] or [lockss.ErrPeerID].
var (
	ErrSignature = errors.New("no LCAP message")
	ErrVersion   = errors.New("not major version 3")
	ErrDigest    = errors.New("properties do not have the digest announced")
	ErrTruncated = errors.New("message ends too early")
	ErrTooLong   = errors.New("longer than allowed")
	ErrBase64    = errors.New("malformed Base64")
)

// The fixed part of a message (lcap-v3.md 4.1):
//
//	offset  size  field
//	     0     3  "lpm"
//	     3     1  major version, 3
//	     4     1  minor version
//	     5    20  SHA-1 of the properties
//	    25     4  length P of the properties
//	    29     P  properties
//	  29+P     4  number of vote blocks; informative
//	  33+P     8  length R of the repair data
//	  41+P     …  vote blocks to the end of the message if the number is > 0, else R bytes
const (
	headerSize  = 29
	trailerSize = 12
	signature   = "lpm"
	major       = 3
	propComment = "LCAP"
)

// Decode reads one message. The result shares the memory of b only in RepairData.
func Decode(b []byte) (*Message, error) {
	m, err := decode(b)
	if err != nil {
		return nil, fmt.Errorf("decode message of %d bytes: %w", len(b), err)
	}
	return m, nil
}

func decode(b []byte) (*Message, error) {
	if len(b) < headerSize {
		return nil, ErrTruncated
	}
	if string(b[:3]) != signature {
		return nil, ErrSignature
	}
	if b[3] != major {
		return nil, fmt.Errorf("major version %d: %w", b[3], ErrVersion)
	}
	m := &Message{Minor: b[4]}
	size := int64(int32(binary.BigEndian.Uint32(b[25:])))
	switch {
	case size < 0:
		return nil, fmt.Errorf("properties of %d bytes: %w", size, ErrTruncated)
	case size > MaxProperties:
		return nil, fmt.Errorf("properties of %d bytes: %w", size, ErrTooLong)
	case int64(len(b)-headerSize) < size+trailerSize:
		return nil, ErrTruncated
	}
	text, rest := b[headerSize:headerSize+size], b[headerSize+size:]
	if digest := sha1.Sum(text); !bytes.Equal(digest[:], b[5:25]) {
		return nil, ErrDigest
	}
	props, err := javaprops.Parse(text)
	if err != nil {
		return nil, err
	}
	if err := m.setProps(props); err != nil {
		return nil, err
	}

	count := int32(binary.BigEndian.Uint32(rest))
	m.RepairLength = max(0, int64(binary.BigEndian.Uint64(rest[4:])))
	rest = rest[trailerSize:]
	if count > 0 {
		m.Blocks, m.BlocksErr = readBlocks(rest, true)
		rest = nil
	}
	if m.RepairLength > 0 && int64(len(rest)) >= m.RepairLength {
		m.RepairData = rest[:m.RepairLength:m.RepairLength]
	}
	if m.Opcode == OpRepairRep && int64(len(m.RepairData)) != m.RepairLength {
		// 1.x stores what there is; a short copy must not be taken for the content.
		return nil, fmt.Errorf("repair data of %d bytes announced: %w", m.RepairLength, ErrTruncated)
	}
	return m, nil
}

func (m *Message) setProps(p map[string]string) error {
	var err error
	if s, ok := p["origId"]; ok {
		if m.OrigID, err = findPeer(s); err != nil {
			return fmt.Errorf("origId: %w", err)
		}
	}
	m.DestID, _ = findPeer(p["destId"]) // unreadable is the same as another node's
	m.Opcode = Opcode(intProp(p, "opcode", int64(opNone), 32))
	m.Key = p["key"]
	m.AU = lockss.AUID(textProp(p, "au", string(NoAU)))
	m.PlugVer = p["plugVer"]
	m.HashAlgorithm = textProp(p, "hashAlgorithm", "SHA-1")
	m.Duration = time.Duration(intProp(p, "duration", 0, 32)) * time.Second
	m.VoteDuration = millis(intProp(p, "voteduration", 0, 64))
	for _, f := range []struct {
		key string
		to  *[]byte
	}{
		{"pollerNonce", &m.PollerNonce}, {"voterNonce", &m.VoterNonce}, {"voterNonce2", &m.VoterNonce2},
		{"sampleNonce", &m.SampleNonce}, {"effortproof", &m.EffortProof},
	} {
		if *f.to, err = bytesProp(p, f.key); err != nil {
			return err
		}
	}
	m.Modulus = int(intProp(p, "modulus", 0, 32))
	if s, ok := p["groups"]; ok {
		m.Groups = []string{}
		for g := range strings.SplitSeq(s, ";") {
			if g = strings.TrimSpace(g); g != "" {
				m.Groups = append(m.Groups, g)
			}
		}
	}
	if s, ok := p["nak"]; ok {
		if m.NAK = NAK(s); !slices.Contains(knownNAKs, m.NAK) {
			m.NAK = NAKUnknown
		}
	}
	for s := range strings.SplitSeq(p["nominees"], ",") {
		if id, err := lockss.FindPeerID(s); err == nil && len(m.Nominees) < MaxNominees {
			m.Nominees = append(m.Nominees, id)
		}
	}
	m.URL = p["url"]
	m.VoteComplete = strings.EqualFold(p["votecomplete"], "true")
	if s, ok := p["repairProps"]; ok {
		if m.RepairProps, err = nestedProps(s); err != nil {
			return fmt.Errorf("repairProps: %w", err)
		}
	}
	m.AgreementHint = doubleProp(p, "agreementHint", -1)
	m.WeightedAgreementHint = doubleProp(p, "weightedAgreementHint", -1)
	return nil
}

// findPeer reads an identity; a V1 identity is well-formed but no peer of ours.
func findPeer(s string) (lockss.PeerID, error) {
	id, err := lockss.FindPeerID(s)
	if v1 := (*lockss.V1Error)(nil); errors.As(err, &v1) {
		return "", nil
	}
	return id, err
}

// Append writes m. It fails when a receiver would reject or misread the message: vote blocks
// together with repair data, blocks out of order or longer than 32767 bytes, a PollAck that
// neither accepts nor says why not, a receipt without a hint in 0..1.
func Append(dst []byte, m *Message) ([]byte, error) {
	props, err := m.props()
	if err != nil {
		return dst, fmt.Errorf("encode %v for %s: %w", m.Opcode, m.DestID, err)
	}
	start := len(dst)
	dst = append(dst, signature...)
	minor := m.Minor
	if minor == 0 {
		minor = Revision5
	}
	dst = append(dst, major, minor)
	dst = append(dst, make([]byte, headerSize-5)...)
	dst = javaprops.Append(dst, []string{propComment}, props)
	text := dst[start+headerSize:]
	if len(text) > MaxProperties {
		return dst[:start], fmt.Errorf("encode %v for %s: properties of %d bytes: %w", m.Opcode, m.DestID, len(text), ErrTooLong)
	}
	digest := sha1.Sum(text)
	copy(dst[start+5:], digest[:])
	binary.BigEndian.PutUint32(dst[start+25:], uint32(len(text)))
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(m.Blocks)))
	dst = binary.BigEndian.AppendUint64(dst, uint64(len(m.RepairData)))
	for i, block := range m.Blocks {
		if i > 0 && lockss.CompareURL(m.Blocks[i-1].URL, block.URL) >= 0 {
			return dst[:start], fmt.Errorf("encode %v for %s: block %s does not come after %s: %w",
				m.Opcode, m.DestID, block.URL, m.Blocks[i-1].URL, ErrOrder)
		}
		if dst, err = appendBlock(dst, block); err != nil {
			return dst[:start], fmt.Errorf("encode %v for %s: %w", m.Opcode, m.DestID, err)
		}
	}
	return append(dst, m.RepairData...), nil
}

func (m *Message) props() (map[string]string, error) {
	p := map[string]string{"opcode": strconv.Itoa(int(m.Opcode))}
	text := func(key, value string) {
		if value != "" {
			p[key] = value
		}
	}
	text("origId", string(m.OrigID))
	text("destId", string(m.DestID))
	text("pollerNonce", encodeBase64(m.PollerNonce))
	text("voterNonce", encodeBase64(m.VoterNonce))
	text("voterNonce2", encodeBase64(m.VoterNonce2))
	if m.Opcode == OpNoOp {
		return p, nil
	}
	if len(m.Blocks) > 0 && len(m.RepairData) > 0 {
		return nil, errors.New("vote blocks and repair data exclude each other")
	}
	if m.Opcode == OpPollAck && len(m.VoterNonce) == 0 && m.NAK == "" {
		return nil, errors.New("neither a voter nonce nor a reason to decline")
	}
	text("sampleNonce", encodeBase64(m.SampleNonce))
	text("effortproof", encodeBase64(m.EffortProof))
	text("key", m.Key)
	text("au", string(m.AU))
	text("plugVer", m.PlugVer)
	p["hashAlgorithm"] = "SHA-1"
	text("hashAlgorithm", m.HashAlgorithm)
	p["duration"] = strconv.FormatInt(min(max(0, int64(m.Duration/time.Second)), math.MaxInt32), 10)
	p["elapsed"] = "0"
	p["voteduration"] = strconv.FormatInt(m.VoteDuration.Milliseconds(), 10)
	p["votedeadline"] = "0"
	p["modulus"] = strconv.Itoa(m.Modulus)
	p["groups"] = NoGroup
	if len(m.Groups) > 0 {
		p["groups"] = strings.Join(m.Groups, ";")
	}
	p["votecomplete"] = strconv.FormatBool(m.VoteComplete)
	text("nak", string(m.NAK))
	if len(m.Nominees) > 0 {
		ids := make([]string, len(m.Nominees))
		for i, id := range m.Nominees {
			ids[i] = string(id)
		}
		p["nominees"] = strings.Join(ids, ",")
	}
	text("url", m.URL)
	if m.RepairProps != nil {
		p["repairProps"] = encodeBase64(javaprops.Append(nil, []string{propComment}, m.RepairProps))
	}
	if m.Opcode == OpEvaluationReceipt {
		if !(m.AgreementHint >= 0 && m.AgreementHint <= 1) {
			return nil, fmt.Errorf("agreement hint %v, want 0..1", m.AgreementHint)
		}
		p["agreementHint"] = formatDouble(m.AgreementHint)
		if w := m.WeightedAgreementHint; w != -1 {
			if !(w >= 0 && w <= 1) {
				return nil, fmt.Errorf("weighted agreement hint %v, want 0..1, or -1 for none", w)
			}
			p["weightedAgreementHint"] = formatDouble(w)
		}
	}
	return p, nil
}

// Typed values of a property list (lcap-v3.md 3.3). Bad numbers read as the default.

func textProp(p map[string]string, key, absent string) string {
	if s, ok := p[key]; ok {
		return s
	}
	return absent
}

func intProp(p map[string]string, key string, absent int64, bits int) int64 {
	n, err := strconv.ParseInt(p[key], 10, bits)
	if err != nil {
		return absent
	}
	return n
}

func millis(n int64) time.Duration {
	const most = math.MaxInt64 / int64(time.Millisecond)
	return time.Duration(min(max(n, -most), most)) * time.Millisecond
}

// doubleProp reads decimal and exponent forms and NaN, as Java does.
func doubleProp(p map[string]string, key string, absent float64) float64 {
	s := strings.TrimSpace(p[key])
	switch s {
	case "NaN", "+NaN", "-NaN":
		return math.NaN()
	case "Infinity", "+Infinity":
		return math.Inf(1)
	case "-Infinity":
		return math.Inf(-1)
	}
	if n := len(s) - 1; n > 0 && strings.IndexByte("dDfF", s[n]) >= 0 {
		s = s[:n]
	}
	if strings.Trim(s, "+-0123456789.eE") != "" {
		return absent
	}
	v, err := strconv.ParseFloat(s, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return absent
	}
	return v
}

// formatDouble writes the shortest text that reads back as v, in Java's form: 0.5, 1.0,
// 3.3333332976326346E-4.
func formatDouble(v float64) string {
	if a := math.Abs(v); a != 0 && (a < 1e-3 || a >= 1e7) {
		mantissa, exponent, _ := strings.Cut(strconv.FormatFloat(v, 'e', -1, 64), "e")
		if !strings.Contains(mantissa, ".") {
			mantissa += ".0"
		}
		n, _ := strconv.Atoi(exponent) // made by FormatFloat: a number, or "" for what is none
		return mantissa + "E" + strconv.Itoa(n)
	}
	s := strconv.FormatFloat(v, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

func bytesProp(p map[string]string, key string) ([]byte, error) {
	b, err := decodeBase64(p[key])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return b, nil
}

func nestedProps(s string) (map[string]string, error) {
	b, err := decodeBase64(s)
	if err != nil {
		return nil, err
	}
	return javaprops.Parse(b)
}

func encodeBase64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// decodeBase64 reads the standard alphabet with padding at the end and nothing else, no line
// breaks either. "" gives nil.
func decodeBase64(s string) ([]byte, error) {
	if s == "" {
		return nil, nil
	}
	if strings.ContainsAny(s, "\r\n") { // which the standard decoder would skip
		return nil, fmt.Errorf("line break: %w", ErrBase64)
	}
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBase64, err)
	}
	return b, nil
}
