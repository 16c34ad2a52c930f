import Foundation

/// Classification heads: one value a class for the whole input.
package struct Classes: Decoder {
    package static let name = "classes"
    package static let task = "classify"

    package let isSigmoid: Bool
    private let isActivated: Bool

    package init(_ options: Fields) throws {
        isSigmoid = try options.read("activation", Read.word("softmax", "sigmoid"), or: "softmax") == "sigmoid"
        isActivated = try options.read("activated", Read.bool, or: false)
    }

    /// Scores of all classes in 0..1. Throws `Misfit`: another number of values. `EdgeKitError.engine`: not finite.
    package func scores(_ heads: Heads, _ classes: Int) throws -> [Float] {
        let data = try heads.only("logits").data
        if data.count != classes { throw Misfit("\(data.count) values where \(classes) are needed, one for each class") }
        try checkFinite(data)
        if isActivated { return data }
        if isSigmoid { return data.map(sigmoid) }
        let most = data.max() ?? 0
        let weights = data.map { exp(Double($0 - most)) }
        let total = weights.reduce(0, +)
        return weights.map { Float($0 / total) }
    }

    /// The classes of the whole input: the best one, or with `sigmoid` all above the threshold.
    package func run(_ heads: Heads, _ frame: InputFrame, above threshold: Double) throws -> Candidates {
        let scores = try scores(heads, frame.classes)
        var found = Candidates()
        for id in descending(scores).prefix(isSigmoid ? scores.count : 1) where scores[id] > Float(threshold) {
            found.add(Box(0, 0, Float(frame.width), Float(frame.height)), scores[id], id, isSigmoid ? id : 0)
        }
        return found
    }
}
