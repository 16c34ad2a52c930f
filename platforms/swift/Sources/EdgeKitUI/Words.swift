import EdgeKit
import Foundation

/// One line of what was found: a colour, a name and a figure.
public struct FoundLine: Sendable, Hashable, Identifiable {
    public let id: Int
    public let colour: Colour
    public let name: String
    public let figure: String
}

extension EdgeResult {
    /// What is found as lines, the surest or largest first. Objects below the score are left out.
    public func lines(from score: Double) -> [FoundLine] {
        let names = info.classes
        func numbered(_ lines: [(colour: Colour, name: String, figure: String)]) -> [FoundLine] {
            lines.enumerated().map { FoundLine(id: $0, colour: $1.colour, name: $1.name, figure: $1.figure) }
        }
        switch self {
        case .classification(let found):
            return numbered(found.top(5).map { (Colour(number: $0), names.name($0), percent(Double(found.scores[$0]))) })
        case .labels(let map):
            var counts: [Int: Int] = [:]
            for label in map.labels { counts[Int(label), default: 0] += 1 }
            let most = counts.sorted { $0.value != $1.value ? $0.value > $1.value : $0.key < $1.key }
            return numbered(most.map { (Colour(number: $0.key), names.name($0.key), percent(Double($0.value) / Double(map.labels.count))) })
        case .embedding(let found):
            return numbered([(Colour(number: 0), "vector", "\(found.vector.count) numbers")])
        case .detections, .poses, .instances, .oriented:
            return numbered(Overlay(self, from: score).items.map { ($0.colour, $0.caption, String(format: "%.2f", $0.score)) })
        }
    }

    /// One sentence of what is found, for the status line and VoiceOver.
    public func sentence(from score: Double) -> String {
        guard let objects else {
            return "Found: " + lines(from: score).prefix(3).map { "\($0.name) \($0.figure)" }.joined(separator: ", ") + "."
        }
        let rows = rows(from: score)
        if rows.isEmpty { return "Nothing found: try a lower least score." }
        var counts: [(name: String, count: Int)] = []
        for name in rows.map({ info.classes.name(objects.classIds[$0]) }) {
            if let at = counts.firstIndex(where: { $0.name == name }) { counts[at].count += 1 } else { counts.append((name, 1)) }
        }
        return "\(rows.count) found: " + counts.map { "\($0.count) \($0.name)" }.joined(separator: ", ") + "."
    }
}

/// What went wrong in plain words; its own words say what to do.
public struct Problem: Sendable, Hashable {
    public let title: String
    public let text: String

    public init(_ error: any Error) {
        text = (error as? EdgeKitError)?.message ?? error.localizedDescription
        title =
            switch error as? EdgeKitError {
            case .bundle(.noManifest, _): "There is no model here"
            case .bundle(.missingFile, _): "A file of the model is missing"
            case .bundle(.wrongSize, _), .bundle(.hashDiffers, _): "A file of the model is damaged"
            case .bundle(.badDigest, _): "The model's description was changed"
            case .bundle(.newerSchema, _): "This model needs a newer edgekit"
            case .bundle(.unreadable, _): "The model cannot be read"
            case .bundle: "This is not a valid model"
            case .input(let text): text.contains("camera") ? "The camera cannot be used" : "This picture cannot be used"
            case .engine: "The engine cannot run this model here"
            case .usage, .busy, .closed, .contract: "This does not work"
            case nil: "Something went wrong"
            }
    }
}

extension SelfCheck {
    /// What the record says, in a sentence.
    public var sentence: String {
        let than = compared == "bundle" ? "what it found when it was converted" : "what its source found"
        if agreed { return "All \(frames) golden frames agree with \(than)." }
        return "The golden frames do not agree with \(than): \(differences.prefix(3).joined(separator: "; "))."
    }
}

private func percent(_ share: Double) -> String { String(format: "%.1f %%", 100 * share) }
