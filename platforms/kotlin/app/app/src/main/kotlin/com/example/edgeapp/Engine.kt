package com.example.edgeapp

import android.content.Context
import edgekit.Engine
import edgekit.litert.LiteRt

/** What runs the bundle. */
fun engine(context: Context): Engine = LiteRt(context)
