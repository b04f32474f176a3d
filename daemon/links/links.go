// Package links finds the links in a page, exactly as the classic node does: the scanner is
// deliberately naive, since a better one would collect other URLs than the other nodes of a
// network have, and polls would disagree (crawl.md 10, 16).
//
//	HTML      text/html, application/xhtml+xml   crawl.md 10.2   html.go, entities.go
//	CSS       text/css, style texts              crawl.md 10.3   css.go
//	XML       text/xml, application/xml          crawl.md 10.4   xml.go
//	Text      bytes → UTF-8                      crawl.md 10.1   charset.go
//	Resolve   link + base → absolute URL         crawl.md 11.2   resolve.go
//
// Links come in document order with repeats, resolved but not normalised, fragments
// included, of any scheme. All functions read as a stream; what they keep is bounded.
package links

import (
	"io"
	"strings"
)

// Kinds of extractors, as [Kind] gives them.
const (
	KindHTML = "html"
	KindCSS  = "css"
	KindXML  = "xml"
)

// Kind is the extractor for a Content-Type header: KindHTML, KindCSS, KindXML, or "" for a
// type in which no links are looked for.
func Kind(contentType string) string {
	mime, _ := ContentType(contentType)
	switch mime {
	case "text/html", "application/xhtml+xml":
		return KindHTML
	case "text/css":
		return KindCSS
	case "text/xml", "application/xml":
		return KindXML
	}
	return ""
}

// ContentType splits a Content-Type header into the MIME type and the charset, both in
// small letters: "TEXT/HTML; Charset=\"utf-8\"" gives "text/html", "utf-8".
func ContentType(header string) (mime, charset string) {
	mime, rest, _ := strings.Cut(header, ";")
	mime = strings.ToLower(strings.TrimSpace(mime))
	for _, p := range strings.Split(rest, ";") {
		k, v, ok := strings.Cut(p, "=")
		if ok && strings.EqualFold(strings.TrimSpace(k), "charset") {
			return mime, strings.ToLower(strings.Trim(strings.TrimSpace(v), `"'`))
		}
	}
	return mime, ""
}

// Extract gives the links in r, which is of the type that a Content-Type header says and
// has no content encoding any more. base is the URL of the page after redirects. A type
// without extractor gives no link and is not read. The error is that of r; what is wrong
// with the page is no error.
func Extract(contentType, base string, r io.Reader, emit func(url string)) error {
	return ExtractAs(Kind(contentType), contentType, base, r, emit)
}

// ExtractAs is Extract with the extractor named by a plugin; contentType only tells the
// charset.
func ExtractAs(kind, contentType, base string, r io.Reader, emit func(url string)) error {
	switch kind {
	case KindHTML:
		return HTML(Text(contentType, r), base, emit)
	case KindCSS:
		return CSS(Text(contentType, r), base, emit)
	case KindXML:
		return XML(Text(contentType, r), base, emit)
	}
	return nil
}
